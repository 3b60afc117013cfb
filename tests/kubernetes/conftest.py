"""The platform on a real cluster: namespaces of the tests' own, real pods serving real bundles."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model_store.storage.opening import open_storage
from model_store.storage.place import KEYS_VARIABLE
from model_store.storage.shared import Shared
from model_store.types import Bundle
from serving.home import Home, Ports
from serving.platforms.kubernetes.platform import KubernetesPlatform
from tests import s3
from tests.contract.platform_contract import Bundles
from tests.kubernetes import cluster as clusters
from tests.kubernetes.cluster import Cluster
from tests.servable import servable_bundle

# Small enough that several fit on a machine of two processors.
RESOURCES = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "384Mi"}}

# Makes a platform of a `kubernetes.yaml`: what a test says goes before what is usual here.
MakePlatform = Callable[..., KubernetesPlatform]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if why := clusters.missing():
        pytest.skip(why)
    with clusters.running(nodes=2) as running:
        yield running


@pytest.fixture(scope="session")
def image(cluster: Cluster) -> str:
    return clusters.pod_image()


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


@pytest.fixture
def make_platform(cluster: Cluster, image: str, namespace: str, tmp_path: Path) -> MakePlatform:
    def make(**said: Any) -> KubernetesPlatform:
        asked = {"image": image, "image_pull_policy": "Never", "resources": RESOURCES}
        usual = {
            "kubeconfig": str(cluster.kubeconfig),
            "namespaces": [namespace],
            "bundles": {"host_path": str(cluster.shared)},
            "notice_seconds": 1,
            "drain_seconds": 5,
        }
        defaults = {"defaults": {**asked, **said.pop("defaults", {})}}
        # One of its own for each: the file is read with the first call. JSON is YAML.
        home = Path(tempfile.mkdtemp(dir=tmp_path))
        (home / "kubernetes.yaml").write_text(json.dumps({**usual, **said, **defaults}))
        return KubernetesPlatform(
            Home(home, Ports()), environ={KEYS_VARIABLE: str(tmp_path / "bundle_keys.json")}
        )

    return make


@pytest.fixture
def platform(make_platform: MakePlatform) -> Iterator[KubernetesPlatform]:
    made = make_platform()
    yield made
    for ref in made.deployments():
        made.retire(ref)


@pytest.fixture
def make_servable(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Bundle]]:
    """A bundle with warm rows, where every node finds it. `serving`: the spec's section."""
    made: list[Path] = []

    def make(service: str, version: int = 1, **serving: Any) -> Bundle:
        keys = tmp_path / "bundle_keys.json"
        bundle = servable_bundle(cluster.shared, service, version, keys=keys, **serving)
        made.append(bundle.path)
        return bundle

    yield make
    for path in made:
        shutil.rmtree(path)


@pytest.fixture
def bundles(make_servable: Callable[..., Bundle]) -> Bundles:
    return make_servable


@pytest.fixture
def unservable(make_servable: Callable[..., Bundle]) -> Bundle:
    bundle = make_servable("broken")
    (bundle.path / "manifest.json").write_text("{}")
    return bundle


@dataclass(frozen=True)
class Bucket:
    """`url` as pods reach it."""

    url: str
    environment: dict[str, str]

    @property
    def shared(self) -> Shared:
        return Shared(open_storage(self.url, self.environment))

    def publish(self, bundle: Bundle) -> None:
        assert self.shared.put_bundle(bundle.id, bundle.path, replacing=False)


@pytest.fixture(scope="module")
def bucket(cluster: Cluster) -> Iterator[Bucket]:
    """At the address by which nodes know this machine."""
    addresses = cluster.get("nodes")["items"][0]["status"]["addresses"]
    node = next(each["address"] for each in addresses if each["type"] == "InternalIP")
    if not cluster.is_ours:
        pytest.skip("pods of another machine's cluster cannot reach a server of this one")
    with pytest.MonkeyPatch.context() as patch, s3.server(address=node) as server:
        # This machine may have a proxy for what is not its own.
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, f"{os.environ.get(name, 'localhost,127.0.0.1')},{node}")
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield Bucket(server.url(), dict(server.environment))


@pytest.fixture
def lost_node(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """Ends the second node without a word: its kubelet, its containers and what runs them. It comes back."""
    if not cluster.is_ours:
        pytest.skip("a node of somebody else's cluster is not ours to end")
    home = clusters.CLUSTER_HOME
    if not (home / "pid" / "kubelet-2").exists():
        pytest.skip("the cluster was started with one node")

    def lose() -> None:
        os.kill(int((home / "pid" / "kubelet-2").read_text()), signal.SIGKILL)
        in_containerd = ["ctr", "-a", "/run/slipway-containerd-2/containerd.sock", "-n", "k8s.io", "tasks"]
        listed = subprocess.run([*in_containerd, "ls"], capture_output=True, text=True, check=True).stdout
        for line in listed.splitlines()[1:]:
            os.kill(int(line.split()[1]), signal.SIGKILL)
        os.kill(int((home / "pid" / "containerd-2").read_text()), signal.SIGKILL)

    yield lose
    clusters.start(nodes=2)
