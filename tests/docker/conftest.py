"""docker-compose.yaml in a real Docker Engine: images, ports, volumes and a project of the tests' own."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from model_store.installation import ROOT as REPOSITORY
from serving.home import Ports
from tests.e2e.stack import free_port_base

# What the image is built on, where python:3.12-slim cannot be pulled and is not there.
BASE_IMAGE = "SLIPWAY_TEST_BASE_IMAGE"
# What pods are started from, built before: saves a build.
POD_IMAGE = "SLIPWAY_TEST_POD_IMAGE"


@dataclass(frozen=True)
class Project:
    """A project of `docker compose`, which may be up or down."""

    name: str
    ports: Ports
    environ: dict[str, str] = field(repr=False)

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
            f"print(json.dumps(Rest(Home.locate().mlflow_url){call}))"
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
_PULLED = ("postgres", "redis", "store")


def _make_stand_ins() -> None:
    """What cannot be pulled here, of Debian's packages; kept, as Docker keeps what it pulls."""
    base = os.environ.get(BASE_IMAGE) or "python:3.12-slim"
    for kind in _PULLED:
        build = ["docker", "buildx", "build", "--quiet", "--build-arg", f"BASE={base}", "--target", kind]
        subprocess.run(
            [*build, "--tag", f"slipway-stand-in-{kind}", str(Path(__file__).parent / "stand_ins")],
            check=True,
            capture_output=True,
            timeout=900,
        )


def pod_image() -> str:
    """The image of deploy/pod.Dockerfile, or the one that somebody made before."""
    if known := os.environ.get(POD_IMAGE):
        return known
    name = "slipway-pod:test"
    base = os.environ.get(BASE_IMAGE) or "python:3.12-slim"
    build = ["docker", "build", "--quiet", "--build-arg", f"BASE={base}", "--file", "deploy/pod.Dockerfile"]
    subprocess.run(
        [*build, "--tag", name, "."], cwd=REPOSITORY, check=True, capture_output=True, timeout=1200
    )
    return name


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    """Built, and not up yet. Nothing of it is left afterwards, but what Docker keeps of the build."""
    if why := missing():
        pytest.skip(why)
    base, name = free_port_base(), f"slipway-test-{uuid.uuid4().hex[:8]}"
    ours, ports = ("SLIPWAY_", "COMPOSE_"), Ports.from_base(base)
    environ = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environ |= {
        "COMPOSE_PROJECT_NAME": name,
        "SLIPWAY_PORT_AIRFLOW": str(ports.airflow),
        "SLIPWAY_PORT_MLFLOW": str(ports.mlflow),
        "SLIPWAY_PORT_GATEWAY": str(ports.gateway),
        "SLIPWAY_PODS_SUBNET": "10.213.16.0/20",
        "SLIPWAY_PODS_RANGE": "10.213.16.0/24",
        # Engines before 25 know no `start_interval`, and each service would wait for its first check.
        "SLIPWAY_CHECK_INTERVAL": "3s",
        **{f"SLIPWAY_{kind.upper()}IMAGE": f"{name}-{kind.strip('_') or 'slipway'}" for kind in _OURS},
        **{f"SLIPWAY_{kind.upper()}_IMAGE": f"slipway-stand-in-{kind}" for kind in _PULLED},
    }
    if known := os.environ.get(BASE_IMAGE):
        environ["SLIPWAY_BASE_IMAGE"] = known
    project = Project(name, ports, environ)
    try:
        _make_stand_ins()
        project.done("build", "--quiet", seconds=1800)
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "30")
        # Not by `down --rmi`, which looks at no image where no container is left.
        images = [value for key, value in environ.items() if value.startswith(f"{name}-") and "IMAGE" in key]
        subprocess.run(["docker", "image", "rm", "--force", *images], capture_output=True, check=False)
