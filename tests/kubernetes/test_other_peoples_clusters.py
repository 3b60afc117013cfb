"""What clusters and specs of others hold: GPUs in parts, names of every kind, containers beside ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from model_store.types import Bundle
from serving.platforms.base import DeploymentPhase
from serving.platforms.kubernetes.platform import KubernetesPlatform
from tests.contract.platform_contract import applied, wait_for, wait_until_ready
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.conftest import MakePlatform

pytestmark = pytest.mark.kubernetes

MakeBundle = Callable[..., Bundle]


@pytest.fixture
def devices(cluster: Cluster) -> Iterator[None]:
    """The first node says that it has a MIG profile twice. Nothing is behind it; scheduling is real."""
    node = cluster.get("nodes")["items"][0]["metadata"]["name"]
    change = {"status": {"capacity": {"nvidia.com/mig-1g.5gb": "2"}}}
    cluster.kubectl("patch", "node", node, "--subresource=status", "-p", json.dumps(change))
    yield
    change = {"status": {"capacity": {"nvidia.com/mig-1g.5gb": None}}}
    cluster.kubectl("patch", "node", node, "--subresource=status", "-p", json.dumps(change))


def test_parts_of_a_gpu_are_given_out_until_there_are_no_more(
    cluster: Cluster, devices: None, platform: KubernetesPlatform, make_servable: MakeBundle
) -> None:
    limits = {"nvidia.com/mig-1g.5gb": 1, "memory": "384Mi"}
    bundle = make_servable(
        "mig", kubernetes={"resources": {"limits": limits, "requests": {"memory": "128Mi"}}}
    )
    ref = applied(platform, bundle, replicas=3)
    full = wait_for(platform, ref, lambda status: len(status.endpoints) == 2 and "lack" in status.reason)
    assert full.phase is DeploymentPhase.IN_PROGRESS
    assert "nvidia.com/mig-1g.5gb (it asks for 1)" in full.reason
    applied(platform, bundle, replicas=2)
    wait_until_ready(platform, ref)


@pytest.mark.parametrize("service", ["A.Very_Long-Name" * 6, "9", "Fraud__EU..v2".replace("..", ".")])
def test_a_service_may_be_called_as_a_spec_allows(
    platform: KubernetesPlatform, make_servable: MakeBundle, service: str
) -> None:
    ref = applied(platform, make_servable(service))
    (endpoint,) = wait_until_ready(platform, ref).endpoints
    assert platform.deployments(service) == [ref]
    assert httpx.get(f"http://{endpoint}/v2/models/{service}/ready").status_code == 200


def test_what_somebody_puts_beside_our_container_ends_nobody_before_it_serves(
    cluster: Cluster, platform: KubernetesPlatform, namespace: str, make_servable: MakeBundle
) -> None:
    """As a service mesh does it, in fields that are not ours. Its image is not there."""
    bundle = make_servable("meshed")
    ref = applied(platform, bundle)
    before = wait_until_ready(platform, ref).endpoints
    (deployment,) = cluster.objects("deployments", namespace, "meshed")
    beside = {
        "name": "mesh",
        "image": "localhost/no-mesh:1",
        "imagePullPolicy": "Never",
    }
    change = {"spec": {"template": {"spec": {"containers": [beside]}}}}
    name = deployment["metadata"]["name"]
    cluster.kubectl("patch", "deployment", name, "-n", namespace, "-p", json.dumps(change))
    assert wait_until_ready(platform, ref).endpoints == before
    # More are wanted, and those cannot be: the sentence names the container that is not ours.
    applied(platform, bundle, replicas=2)
    status = wait_for(platform, ref, lambda status: "localhost/no-mesh:1" in status.reason)
    assert (status.phase, status.endpoints) == (DeploymentPhase.IN_PROGRESS, before)


def test_two_installations_may_run_the_same_bundle_in_one_namespace(
    make_platform: MakePlatform, make_servable: MakeBundle
) -> None:
    staging, production = make_platform(name="staging"), make_platform(name="production")
    bundle = make_servable("twice")
    refs = [(each, applied(each, bundle)) for each in (staging, production)]
    found = {wait_until_ready(each, ref).endpoints for each, ref in refs}
    assert len(found) == 2
    for each, ref in refs:
        each.retire(ref)
