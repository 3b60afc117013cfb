"""Pods as containers of a real Docker Engine, behind a launcher of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

from model_store.errors import Permanent, Retryable
from model_store.installation import ROOT as REPOSITORY
from model_store.types import Bundle
from serving.home import Home, Ports
from serving.platforms.base import DeploymentPhase
from serving.platforms.docker.__main__ import PORT
from serving.platforms.docker.platform import DockerPlatform
from tests.contract.platform_contract import (
    Bundles,
    PlatformContract,
    applied,
    wait_for,
    wait_until_gone,
    wait_until_ready,
)
from tests.docker.conftest import missing
from tests.images import image_of
from tests.servable import servable_bundle

pytestmark = pytest.mark.docker

SUBNET, DYNAMIC = "10.213.240.0/24", "10.213.240.0/28"
TOKEN = "a token of the tests"


@dataclass
class Installation:
    """A launcher and its network. `name` marks every container of it."""

    name: str
    folder: Path
    environ: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def bundles(self) -> Path:
        return self.folder / "bundles"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{PORT}"

    def start(self, **changed: str) -> None:
        command = [sys.executable, "-m", "serving.platforms.docker"]
        with (self.folder / "launcher.log").open("ab") as log:
            environ = {**os.environ, **self.environ, **changed}
            self.process = subprocess.Popen(command, cwd=REPOSITORY, env=environ, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not _answers(self.url):
            said = (self.folder / "launcher.log").read_text()[-3000:]
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    @contextmanager
    def started_with(self, **changed: str) -> Iterator[None]:
        """For a while, with other variables."""
        self.kill()
        self.start(**changed)
        try:
            yield
        finally:
            self.kill()
            self.start()

    @contextmanager
    def having(self, service: str) -> Iterator[None]:
        """Another service of the Compose project, which runs meanwhile."""
        labels = {"com.docker.compose.project": self.name, "com.docker.compose.service": service}
        code = ["-c", "import time; time.sleep(600)"]
        container = docker.from_env().containers.run(
            self.environ["SLIPWAY_POD_IMAGE"],
            code,
            entrypoint="python",
            labels=labels,
            network_mode="none",
            detach=True,
        )
        try:
            yield
        finally:
            container.remove(force=True)

    def containers(self) -> list[Any]:
        labelled = {"label": f"slipway.installation={self.name}"}
        return list(docker.from_env().containers.list(all=True, filters=labelled, ignore_removed=True))

    def platform(self, tmp_path: Path, **environ: str) -> DockerPlatform:
        token = self.folder / "token"
        usual = {"SLIPWAY_LAUNCHER_URL": self.url, "SLIPWAY_LAUNCHER_TOKEN_FILE": str(token)}
        return DockerPlatform(Home(tmp_path, Ports()), {**usual, **environ})


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    if why := missing(compose=False):
        pytest.skip(why)
    name, folder = f"slipway-test-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("docker")
    # Pods are another user than whoever runs the tests.
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    (folder / "token").write_text(TOKEN)
    (folder / "bundles").mkdir()
    client = docker.from_env()
    pools = [docker.types.IPAMPool(subnet=SUBNET, iprange=DYNAMIC)]
    network = client.networks.create(name, ipam=docker.types.IPAMConfig(pool_configs=pools))
    environ = {
        "SLIPWAY_INSTALLATION": name,
        "SLIPWAY_POD_IMAGE": image_of("pod"),
        "SLIPWAY_POD_NETWORK": name,
        "SLIPWAY_POD_BUNDLES": str(folder / "bundles"),
        "SLIPWAY_LAUNCHER_TOKEN_FILE": str(folder / "token"),
        "SLIPWAY_LAUNCHER_RECORDS": str(folder / "records"),
    }
    found = Installation(name, folder, environ)
    try:
        found.start()
        yield found
    finally:
        if found.process:
            found.process.terminate()
            found.process.wait(60)
        left = found.containers()
        for container in left:
            container.remove(force=True)
        network.remove()
    assert left == [], "the last one out takes the pods along"


@pytest.fixture
def platform(installation: Installation, tmp_path: Path) -> Iterator[DockerPlatform]:
    made = installation.platform(tmp_path)
    yield made
    for ref in made.deployments():
        made.retire(ref)


@pytest.fixture
def bundles(installation: Installation, tmp_path: Path) -> Bundles:
    def make(service: str, version: int = 1, **serving: Any) -> Bundle:
        keys = tmp_path / "bundle_keys.json"
        return servable_bundle(installation.bundles, service, version, keys=keys, **serving)

    return make


@pytest.fixture
def unservable(bundles: Callable[..., Bundle]) -> Bundle:
    bundle = bundles("broken")
    (bundle.path / "manifest.json").write_text("{}")
    return bundle


class TestDockerPlatform(PlatformContract):
    """The contract."""


def test_a_pod_is_confined_and_answers_at_its_address(
    installation: Installation, platform: DockerPlatform, bundles: Bundles
) -> None:
    ref = applied(platform, bundles("confined", 1))
    (endpoint,) = wait_until_ready(platform, ref).endpoints
    assert httpx.get(f"http://{endpoint}/v2/models/confined", trust_env=False).status_code == 200
    (container,) = [
        each for each in installation.containers() if each.labels["slipway.service"] == "confined"
    ]
    host, config = container.attrs["HostConfig"], container.attrs["Config"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert config["User"] == "10001:10001"
    assert 0 < host["Memory"] == host["MemorySwap"]
    assert host["PidsLimit"] > 0
    assert host["NanoCpus"] > 0
    (mount,) = container.attrs["Mounts"]
    assert mount["RW"] is False


def test_a_pod_that_crashes_or_is_removed_comes_back_at_its_address(
    installation: Installation, platform: DockerPlatform, bundles: Bundles
) -> None:
    ref = applied(platform, bundles("comes_back", 1))
    before = wait_until_ready(platform, ref).endpoints
    for end in ("crash", "removal"):
        (container,) = [
            each for each in installation.containers() if each.labels["slipway.bundle"] == ref.bundle_id
        ]
        if end == "crash":
            os.kill(container.attrs["State"]["Pid"], 9)
        else:
            container.remove(force=True)
        status = wait_for(platform, ref, lambda status: not status.is_ready)
        assert (status.phase, status.endpoints) == (DeploymentPhase.IN_PROGRESS, before)
        assert wait_until_ready(platform, ref).endpoints == before


def test_pods_outlive_a_launcher_that_is_killed_and_it_knows_them_again(
    installation: Installation, platform: DockerPlatform, bundles: Bundles
) -> None:
    ref = applied(platform, bundles("outlives", 1))
    (endpoint,) = wait_until_ready(platform, ref).endpoints
    installation.kill()
    try:
        assert httpx.get(f"http://{endpoint}/v2/health/ready", trust_env=False).status_code == 200
        with pytest.raises(Retryable, match="launcher of pods does not answer"):
            platform.status(ref)
    finally:
        installation.start()
    assert wait_until_ready(platform, ref).endpoints == (endpoint,)
    platform.retire(ref)
    wait_until_gone(platform, ref)


def test_the_last_one_out_takes_the_pods_along_and_brings_them_back_at_their_addresses(
    installation: Installation, platform: DockerPlatform, bundles: Bundles
) -> None:
    ref = applied(platform, bundles("comes_along", 1))
    before = wait_until_ready(platform, ref).endpoints
    assert installation.process is not None
    installation.process.terminate()
    installation.process.wait(60)
    assert installation.containers() == []
    installation.start()
    assert wait_until_ready(platform, ref).endpoints == before


@pytest.mark.parametrize(("service", "stay"), [("envoy", True), ("database", False)])
def test_pods_stay_as_long_as_somebody_asks_them(
    installation: Installation, platform: DockerPlatform, bundles: Bundles, service: str, stay: bool
) -> None:
    ref = applied(platform, bundles(f"beside_{service}", 1))
    with installation.started_with(SLIPWAY_ROUTERS="envoy other"), installation.having(service):
        endpoints = wait_until_ready(platform, ref).endpoints
        assert installation.process is not None
        installation.process.terminate()
        installation.process.wait(60)
        assert bool(installation.containers()) == stay
        installation.start()
        assert wait_until_ready(platform, ref).endpoints == endpoints
        platform.retire(ref)
        wait_until_gone(platform, ref)


def test_what_keeps_pods_from_being_made_is_said(
    installation: Installation, platform: DockerPlatform, bundles: Bundles
) -> None:
    with installation.started_with(SLIPWAY_POD_IMAGE="slipway-no-such-image"):
        ref = applied(platform, bundles("no_image", 1))
        status = wait_for(platform, ref, lambda status: status.phase is DeploymentPhase.FAILED)
        assert "there is no image slipway-no-such-image here" in status.reason
        assert "SLIPWAY_POD_IMAGE" in status.remedy
        platform.retire(ref)


def test_a_host_without_gpus_is_told_in_dockers_words(
    installation: Installation, platform: DockerPlatform, bundles: Bundles
) -> None:
    if shutil.which("nvidia-container-cli"):
        pytest.skip("this host has NVIDIA's container toolkit")
    with installation.started_with(SLIPWAY_POD_GPUS="all"):
        ref = applied(platform, bundles("no_gpu", 1))
        status = wait_for(platform, ref, lambda status: status.phase is DeploymentPhase.FAILED)
        assert "could not select device driver" in status.reason
        platform.retire(ref)


def test_a_pod_without_enough_memory_fails_with_its_limit(
    installation: Installation, platform: DockerPlatform, bundles: Bundles
) -> None:
    with installation.started_with(SLIPWAY_POD_MEMORY_MB="24"):
        ref = applied(platform, bundles("no_memory", 1))
        status = wait_for(platform, ref, lambda status: status.phase is DeploymentPhase.FAILED)
        assert "it needed more memory than its limit, 24 MiB" in status.reason
        platform.retire(ref)


def test_nothing_is_done_for_another_token_or_a_name_that_leaves_its_folder(
    installation: Installation, tmp_path: Path, bundles: Bundles
) -> None:
    (tmp_path / "token").write_text("somebody else's")
    stranger = installation.platform(tmp_path, SLIPWAY_LAUNCHER_TOKEN_FILE=str(tmp_path / "token"))
    with pytest.raises(Permanent, match="the token is another one"):
        stranger.deployments()
    asked = {
        "ref": {"service": "evil", "slot": "blue", "bundle_id": "../../etc", "version": 1},
        "replicas": 1,
    }
    for wrong in (asked, {**asked, "ref": {**asked["ref"], "bundle_id": "b"}, "image": "other"}):  # type: ignore[dict-item]
        shown = {"authorization": f"Bearer {TOKEN}"}
        answer = httpx.post(f"{installation.url}/apply", json=wrong, headers=shown, trust_env=False)
        assert answer.status_code == 422, answer.text
