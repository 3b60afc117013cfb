"""docker-compose.yaml in a real Docker Engine: images, ports, volumes and a project of the tests' own."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from model_store.installation import ROOT as REPOSITORY
from serving.home import Home, Ports
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

    def inside(self, *command: str) -> str:
        """A command in the container of the pods, as people give it, that has to succeed."""
        return self.done("exec", "--no-TTY", "pods", *command)

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
    def home(self) -> Home:
        """As it is called from outside: only its addresses mean something here."""
        return Home(REPOSITORY / "no-such-home", self.ports)


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
    ours = ("SLIPWAY_", "COMPOSE_")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environ |= {"SLIPWAY_PORT_BASE": str(base), "SLIPWAY_IMAGE": name}
    if known := os.environ.get(BASE_IMAGE):
        environ["SLIPWAY_BASE_IMAGE"] = known
    project = Project(name, Ports.from_base(base), environ)
    try:
        project.done("build", "--quiet", seconds=1800)
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "30")
        # Not by `down --rmi`, which looks at no image where no container is left.
        subprocess.run(["docker", "image", "rm", "--force", name], capture_output=True, check=False)
