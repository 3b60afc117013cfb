"""docker-compose.yaml in a real Docker Engine: images, ports, volumes and a project of the tests' own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_store.installation import ROOT as REPOSITORY
from serving.home import Ports
from tests.e2e.stack import free_port_base
from tests.images import base_image

# A project that is up with the demo, on the usual ports, and stays; its images are named in the environment.
UP = "SLIPWAY_TEST_COMPOSE_PROJECT"


@dataclass(frozen=True)
class Project:
    """A project of `docker compose`, which may be up or down."""

    name: str
    ports: Ports
    environ: dict[str, str] = field(repr=False)
    is_ours: bool = True

    def compose(self, *arguments: str, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        """`docker compose ...`, to its end."""
        command = ["docker", "compose", "--project-name", self.name, *arguments]
        return subprocess.run(
            command,
            cwd=REPOSITORY,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def done(self, *arguments: str, seconds: float = 600) -> str:
        """A command that has to succeed: what it said."""
        ended = self.compose(*arguments, seconds=seconds)
        assert ended.returncode == 0, f"{' '.join(arguments)}\n{ended.stdout[-5000:]}\n{ended.stderr[-5000:]}"
        return ended.stdout

    def inside(self, service: str, *command: str) -> str:
        """A command in a service's container, that has to succeed."""
        return self.done("exec", "--no-TTY", service, *command)

    def slipway(self, *command: str) -> str:
        """The command line, as people give it."""
        return self.inside("airflow-api-server", "slipway", *command)

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """As a person does in MLflow."""
        self._rest(f".post('/registered-models/alias', name={model!r}, alias={alias!r}, version='{version}')")

    def version_of(self, model: str, alias: str) -> str:
        """Empty where no version has the alias."""
        said = self._rest(f".get('/registered-models/get', name={model!r})")
        aliases = json.loads(said)["registered_model"].get("aliases", [])
        return str({each["alias"]: each["version"] for each in aliases}.get(alias, ""))

    def _rest(self, call: str) -> str:
        """What MLflow says, asked with the installation's own account."""
        code = (
            "import json\nfrom model_store.registry.rest import Rest\nfrom serving.home import Home\n"
            f"rest = Rest(Home.locate().mlflow_url)\nprint(json.dumps(rest{call}))"
        )
        run = ("python", "-m", "serving.local_stack.containers", "run", "python", "-c", code)
        return self.inside("airflow-api-server", *run)

    def pods(self) -> list[str]:
        """The containers of pods, by id."""
        labelled = f"label=slipway.installation={self.name}"
        return _docker("ps", "--quiet", "--no-trunc", "--filter", labelled).split()

    def inspected(self) -> str:
        """All that Docker tells of the project's containers."""
        return _docker("inspect", *(one["ID"] for one in self.containers()))

    def containers(self) -> list[dict[str, Any]]:
        said = self.done("ps", "--all", "--format", "json").splitlines()
        return [json.loads(line) for line in said]

    def pid_of(self, container: str) -> int:
        """Of its first process, as this machine calls it."""
        return int(_docker("inspect", "--format", "{{.State.Pid}}", container))

    def health_of(self, container: str) -> str:
        return _docker("inspect", "--format", "{{.State.Health.Status}}", container).strip()

    def login(self) -> tuple[str, str]:
        """To Airflow: name and password, as people are told them."""
        told = self.inside("airflow-api-server", "cat", "/run/slipway/login")
        _, name, password = next(line for line in told.splitlines() if line.startswith("Airflow")).split()
        return name, password

    def releases(self) -> list[dict[str, Any]]:
        """Those that have traffic to split, as `slipway status` tells them."""
        ended = self.compose("exec", "--no-TTY", "airflow-api-server", "slipway", "status", "--json")
        found: list[dict[str, Any]] = json.loads(ended.stdout)["releases"]
        return found

    def register_again(self, model: str, version: int) -> None:
        """The same bytes as another version."""
        asked = f".get('/model-versions/get', name={model!r}, version='{version}')"
        described = json.loads(self._rest(asked))["model_version"]
        copy = {"name": model, "source": described["source"], "run_id": described["run_id"]}
        # MLflow believes a source of another model only with that model's id.
        copy["model_id"] = described["source"].removeprefix("models:/")
        self._rest(f".post('/model-versions/create', **{copy!r})")

    def beside(self) -> Project:
        """Another project of the same images, on other ports and in other networks. Not up."""
        name, ports = f"{self.name}-b", Ports.from_base(free_port_base())
        environ = {**self.environ, **_own(name, ports, pods="10.213.32")}
        return Project(name, ports, environ)

    def restarts_of(self, container: str) -> int:
        """How often Docker started it again."""
        return int(_docker("inspect", "--format", "{{.RestartCount}}", container))

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def airflow_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.airflow}"

    @property
    def prometheus_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.pods_from}"

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.mlflow}"


def _docker(*arguments: str) -> str:
    command = ["docker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def missing(*, compose: bool = True) -> str:
    """Why Docker cannot be used here, empty if it can."""
    needed = [("no Docker Engine answers", ["docker", "info"])]
    if compose:
        needed.append(("Docker has no `compose` command", ["docker", "compose", "version"]))
        needed.append(("Docker has no `buildx` command", ["docker", "buildx", "version"]))
    for what, command in needed:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as problem:
            return f"{what}: {problem}"
        if done.returncode:
            return f"{what}: {done.stderr.strip()[:200]}"
    return ""


# Of docker-compose.yaml: what is built of this repository, as the variables begin, and what is pulled.
_OURS = ("", "pod_", "gateway_")
_PULLED = ("postgres", "redis", "store", "prometheus", "alertmanager")


def _make_stand_ins() -> None:
    """What cannot be pulled here, of Debian's packages; kept, as Docker keeps what it pulls."""
    for kind in _PULLED:
        build = [
            "docker",
            "buildx",
            "build",
            "--quiet",
            "--build-arg",
            f"BASE={base_image()}",
            "--target",
            kind,
        ]
        subprocess.run(
            [*build, "--tag", f"slipway-stand-in-{kind}", str(Path(__file__).parent / "stand_ins")],
            check=True,
            capture_output=True,
            timeout=900,
        )


def _own(name: str, ports: Ports, *, pods: str) -> dict[str, str]:
    """What two projects on one host may not have in common."""
    return {
        "COMPOSE_PROJECT_NAME": name,
        "SLIPWAY_PORT_AIRFLOW": str(ports.airflow),
        "SLIPWAY_PORT_MLFLOW": str(ports.mlflow),
        "SLIPWAY_PORT_GATEWAY": str(ports.gateway),
        # Of what is in no container here.
        "SLIPWAY_PORT_PROMETHEUS": str(ports.pods_from),
        "SLIPWAY_PORT_ALERTMANAGER": str(ports.pods_from + 1),
        "SLIPWAY_PODS_SUBNET": f"{pods}.0/20",
        "SLIPWAY_PODS_RANGE": f"{pods}.0/24",
    }


def _overriding(folder: Path) -> str:
    """A file of one's own, as people change what is not theirs. Here: DAGs whose spec asks for two pods."""
    dags = folder / "dags"
    shutil.copytree(REPOSITORY / "dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    spec = dags / "releases" / "credit_risk.yaml"
    text = spec.read_text()
    assert "\nserving:\n" in text
    spec.write_text(text.replace("\nserving:\n", "\nserving:\n  replicas: 2\n"))
    for path in (folder, *folder.parents[:2], dags, *dags.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    services = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())["services"]
    mounting = [
        name for name, one in services.items() if "./dags:/opt/slipway/dags:ro" in one.get("volumes", ())
    ]
    changed = {name: {"volumes": [f"{dags}:/opt/slipway/dags:ro"]} for name in mounting}
    file = folder / "override.yaml"
    file.write_text(yaml.safe_dump({"services": changed}))
    return f"{REPOSITORY / 'docker-compose.yaml'}:{file}"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Built, and not up yet. Nothing of it is left afterwards, but what Docker keeps of the build."""
    if why := missing():
        pytest.skip(why)
    if known := os.environ.get(UP):
        yield Project(known, Ports(), {**os.environ, "COMPOSE_PROJECT_NAME": known}, is_ours=False)
        return
    base, name = free_port_base(), f"slipway-test-{uuid.uuid4().hex[:8]}"
    ours, ports = ("SLIPWAY_", "COMPOSE_"), Ports.from_base(base)
    environ = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environ |= {
        **_own(name, ports, pods="10.213.16"),
        "COMPOSE_FILE": _overriding(tmp_path_factory.mktemp("compose")),
        "SLIPWAY_BASE_IMAGE": base_image(),
        # Engines before 25 know no `start_interval`, and each service would wait for its first check.
        "SLIPWAY_CHECK_INTERVAL": "10s",
        **{f"SLIPWAY_{kind.upper()}IMAGE": f"{name}-{kind.strip('_') or 'slipway'}" for kind in _OURS},
        **{f"SLIPWAY_{kind.upper()}_IMAGE": f"slipway-stand-in-{kind}" for kind in _PULLED},
    }
    project = Project(name, ports, environ)
    try:
        _make_stand_ins()
        project.done("build", "--quiet", seconds=1800)
        yield project
    finally:
        project.compose("--profile", "*", "down", "--volumes", "--timeout", "30")
        left = {kind: _left(kind, name) for kind in ("container", "volume", "network")}
        # Not by `down --rmi`, which looks at no image where no container is left.
        images = [value for key, value in environ.items() if value.startswith(f"{name}-") and "IMAGE" in key]
        subprocess.run(["docker", "image", "rm", "--force", *images], capture_output=True, check=False)
    assert left == {"container": [], "volume": [], "network": []}


def _left(kind: str, name: str) -> list[str]:
    """What Docker still has of a project, pods too."""
    listing = ["ls", "--quiet", *(("--all",) if kind == "container" else ())]
    of_compose = _docker(kind, *listing, "--filter", f"label=com.docker.compose.project={name}").split()
    pods = _docker(kind, *listing, "--filter", f"label=slipway.installation={name}").split()
    return [*of_compose, *pods]
