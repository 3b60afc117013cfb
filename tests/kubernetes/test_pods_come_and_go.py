"""Pods that are killed, drained, stuck or lost with their node: endpoints follow, and the reason is said."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store.types import Bundle
from serving.platforms.base import DeploymentPhase, DeploymentStatus
from serving.platforms.kubernetes.platform import KubernetesPlatform
from serving.types import DeploymentRef
from tests.contract.platform_contract import applied, wait_for, wait_until_ready
from tests.kubernetes import cluster as clusters
from tests.kubernetes.cluster import Cluster

pytestmark = pytest.mark.kubernetes

MakeBundle = Callable[..., Bundle]


def pods(cluster: Cluster, namespace: str, service: str) -> dict[str, dict[str, Any]]:
    """By address, those that are not ending."""
    found = cluster.objects("pods", namespace, service)
    return {
        each["status"].get("podIP", ""): each for each in found if "deletionTimestamp" not in each["metadata"]
    }


def process_of(pod: dict[str, Any]) -> int:
    """The server's, as this machine calls it."""
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    for socket in Path("/run").glob("slipway-containerd*/containerd.sock"):
        listed = subprocess.run(
            ["ctr", "-a", str(socket), "-n", "k8s.io", "tasks", "ls"],
            capture_output=True,
            text=True,
            check=False,
        )
        for line in listed.stdout.splitlines():
            if line.startswith(container):
                return int(line.split()[1])
    raise AssertionError(f"no node runs {container}")


@pytest.fixture
def two(
    platform: KubernetesPlatform, make_servable: MakeBundle, request: pytest.FixtureRequest
) -> DeploymentRef:
    """Two pods that serve, of a service that is called after the test."""
    ref = applied(platform, make_servable(request.node.name[5:60]), replicas=2)
    wait_until_ready(platform, ref)
    return ref


def hosts(status: DeploymentStatus) -> set[str]:
    return {each.host for each in status.endpoints}


def test_a_pod_that_is_ending_is_no_endpoint_while_it_still_answers(
    cluster: Cluster, platform: KubernetesPlatform, namespace: str, two: DeploymentRef
) -> None:
    """Envoys hear of it first; what they still send is answered."""
    address, pod = next(iter(pods(cluster, namespace, two.service).items()))
    cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", namespace, "--wait=false")
    status = platform.status(two)
    assert address not in hosts(status)
    assert httpx.get(f"http://{address}:8080/v2/health/ready").status_code == 200
    assert address not in hosts(wait_until_ready(platform, two))


def test_what_was_never_ready_is_no_endpoint(
    cluster: Cluster,
    platform: KubernetesPlatform,
    namespace: str,
    two: DeploymentRef,
    make_servable: MakeBundle,
) -> None:
    """More pods are wanted, and until they are warm the two that were there are all there is."""
    before = hosts(platform.status(two))
    name = cluster.objects("deployments", namespace, two.service)[0]["metadata"]["name"]
    cluster.kubectl("scale", "deployment", name, "-n", namespace, "--replicas=3")
    seen: list[DeploymentStatus] = []
    wait_for(platform, two, lambda status: bool(seen.append(status)) or len(status.endpoints) == 3)
    for status in seen:
        for address in hosts(status) - before:
            assert httpx.get(f"http://{address}:8080/v2/health/ready").status_code == 200


def test_a_pod_that_is_killed_is_started_again_and_comes_back(
    cluster: Cluster, platform: KubernetesPlatform, namespace: str, two: DeploymentRef
) -> None:
    if not cluster.is_ours:
        pytest.skip("processes of another machine's pods cannot be killed from here")
    _, pod = next(iter(pods(cluster, namespace, two.service).items()))
    os.kill(process_of(pod), signal.SIGKILL)
    lost = wait_for(platform, two, lambda status: not status.is_ready)
    assert (lost.phase, len(lost.endpoints)) == (DeploymentPhase.IN_PROGRESS, 1)
    wait_for(platform, two, lambda status: "exit code 137" in status.reason or status.is_ready)
    wait_until_ready(platform, two)


def test_a_pod_whose_engine_does_not_answer_is_out_and_then_started_anew(
    cluster: Cluster, platform: KubernetesPlatform, namespace: str, two: DeploymentRef
) -> None:
    if not cluster.is_ours:
        pytest.skip("processes of another machine's pods cannot be stopped from here")
    address, pod = next(iter(pods(cluster, namespace, two.service).items()))
    os.kill(process_of(pod), signal.SIGSTOP)
    out = wait_for(platform, two, lambda status: address not in hosts(status))
    assert out.phase is DeploymentPhase.IN_PROGRESS
    wait_for(platform, two, lambda status: "takes no traffic: Readiness probe failed" in status.reason)
    wait_until_ready(platform, two)
    restarts = pods(cluster, namespace, two.service)[address]["status"]["containerStatuses"][0][
        "restartCount"
    ]
    assert restarts == 1


def test_pods_of_a_node_that_is_lost_are_replaced_and_the_node_is_named(
    cluster: Cluster,
    platform: KubernetesPlatform,
    namespace: str,
    two: DeploymentRef,
    lost_node: Callable[[], None],
) -> None:
    before = pods(cluster, namespace, two.service)
    assert {each["spec"]["nodeName"] for each in before.values()} == {"node-1", "node-2"}, "spread over nodes"
    gone = next(address for address, pod in before.items() if pod["spec"]["nodeName"] == "node-2")
    lost_node()
    status = wait_for(platform, two, lambda status: gone not in hosts(status))
    assert len(status.endpoints) == 1
    wait_for(platform, two, lambda status: "the node node-2 of the pod" in status.reason)
    assert gone not in hosts(wait_until_ready(platform, two))


def test_a_drained_node_ends_one_pod_at_a_time(
    cluster: Cluster, platform: KubernetesPlatform, namespace: str, two: DeploymentRef
) -> None:
    """Both on one node: the budget lets the second go only when the first one's successor serves."""
    nodes = {each["spec"]["nodeName"] for each in pods(cluster, namespace, two.service).values()}
    least = 2
    cluster.kubectl("cordon", *nodes)
    try:
        ours = f"--pod-selector=slipway/service={two.service}"
        drained = ["drain", *nodes, ours, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=20s"]
        with subprocess.Popen(
            [str(clusters.PROGRAMS / "kubectl"), "--kubeconfig", str(cluster.kubeconfig), *drained],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as draining:
            while draining.poll() is None:
                least = min(least, len(platform.status(two).endpoints))
                time.sleep(0.2)
        # Nobody has room for a successor, so the second one stays.
        assert least == 1
        assert "unschedulable" in platform.status(two).reason
    finally:
        cluster.kubectl("uncordon", *nodes)
    wait_until_ready(platform, two)
