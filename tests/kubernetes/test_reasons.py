"""What keeps pods from running reaches a person, and ends a release at once only where nothing heals it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from model_store.types import Bundle
from serving.platforms.base import DeploymentPhase, DeploymentStatus
from serving.platforms.kubernetes.platform import KubernetesPlatform
from serving.types import DeploymentRef, Slot
from tests.contract.platform_contract import applied, wait_for, wait_until_ready
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.conftest import MakePlatform

pytestmark = pytest.mark.kubernetes

MakeBundle = Callable[..., Bundle]

FAILED, IN_PROGRESS = DeploymentPhase.FAILED, DeploymentPhase.IN_PROGRESS


def says(platform: KubernetesPlatform, ref: DeploymentRef, *words: str) -> DeploymentStatus:
    """The first status with all these words. None of them comes from anywhere but the cluster."""
    return wait_for(platform, ref, lambda status: all(word in status.reason for word in words), seconds=60)


@pytest.fixture
def retired(make_platform: MakePlatform) -> Iterator[MakePlatform]:
    """Makes platforms whose deployments are gone after the test."""
    made: list[KubernetesPlatform] = []

    def make(**said: Any) -> KubernetesPlatform:
        made.append(make_platform(**said))
        return made[-1]

    yield make
    for platform in made:
        for ref in platform.deployments():
            platform.retire(ref)


def test_a_gpu_that_no_node_has_is_waited_for_and_named(
    retired: MakePlatform, make_servable: MakeBundle
) -> None:
    asked = {"resources": {"limits": {"nvidia.com/gpu": 64, "memory": "128Mi"}}}
    platform = retired()
    ref = applied(platform, make_servable("gpu", kubernetes=asked))
    status = says(platform, ref, "lack", "nvidia.com/gpu (it asks for 64)")
    assert status.phase is IN_PROGRESS
    assert "0 of 1 pods are ready: none of" in status.reason


def test_gpus_that_two_versions_need_at_once_are_counted(
    retired: MakePlatform, make_servable: MakeBundle
) -> None:
    """Nothing of the version that serves is taken away for it: it waits, as long as a start may."""
    platform = retired()
    asked = {"resources": {"limits": {"nvidia.com/gpu": 64, "memory": "128Mi"}}}
    applied(platform, make_servable("twice", kubernetes=asked), replicas=2)
    ref = applied(platform, make_servable("twice", 2, kubernetes=asked), Slot.GREEN)
    status = says(platform, ref, "it needs 64 nvidia.com/gpu beside the 128 of v1 while both stand")
    assert status.phase is IN_PROGRESS
    assert len(platform.deployments("twice")) == 2


def test_nodes_without_the_labels_that_are_asked_for_are_named(
    retired: MakePlatform, make_servable: MakeBundle
) -> None:
    platform = retired()
    asked = {"node_selector": {"no-such-label": "here"}}
    ref = applied(platform, make_servable("selected", kubernetes=asked))
    assert says(platform, ref, "without the labels of its node_selector").phase is IN_PROGRESS


def test_an_image_with_an_impossible_name_fails_at_once(
    retired: MakePlatform, make_servable: MakeBundle
) -> None:
    platform = retired(defaults={"image": "Registry/::bad", "image_pull_policy": "IfNotPresent"})
    ref = applied(platform, make_servable("bad_name"))
    status = says(platform, ref, "Registry/::bad")
    assert status.phase is FAILED
    assert "image" in status.remedy


def test_an_image_that_must_be_there_and_is_not_fails_at_once(
    retired: MakePlatform, make_servable: MakeBundle
) -> None:
    platform = retired(defaults={"image": "localhost/none:1"})
    ref = applied(platform, make_servable("never"))
    assert says(platform, ref, "localhost/none:1 cannot be pulled").phase is FAILED


@contextmanager
def registry(status: int) -> Iterator[str]:
    """One that gives every question the same answer. Whoever runs containers asks 127.0.0.1 without TLS."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "phase"),
    [(404, FAILED), (401, FAILED), (403, FAILED), (429, IN_PROGRESS), (503, IN_PROGRESS)],
)
def test_what_a_registry_answers_decides_whether_waiting_helps(
    cluster: Cluster, retired: MakePlatform, make_servable: MakeBundle, answer: int, phase: DeploymentPhase
) -> None:
    if not cluster.is_ours:
        pytest.skip("nodes of another machine cannot reach a registry of this one")
    with registry(answer) as address:
        image = f"{address}/slipway-pod:1"
        platform = retired(defaults={"image": image, "image_pull_policy": "Always"})
        ref = applied(platform, make_servable(f"registry_{answer}"))
        assert says(platform, ref, f"{image} cannot be pulled").phase is phase


def test_a_registry_that_is_not_there_is_waited_for(retired: MakePlatform, make_servable: MakeBundle) -> None:
    platform = retired(defaults={"image": "127.0.0.1:1/slipway-pod:1", "image_pull_policy": "Always"})
    ref = applied(platform, make_servable("registry_away"))
    assert says(platform, ref, "cannot be pulled").phase is IN_PROGRESS


def test_a_full_quota_says_which_and_by_how_much_and_what_serves_goes_on(
    cluster: Cluster, retired: MakePlatform, make_servable: MakeBundle
) -> None:
    """The sentence stands on the ReplicaSet alone: there is no pod that could have it."""
    with cluster.namespace() as namespace:
        quota = {"hard": {"requests.memory": "200Mi"}}
        metadata = {"name": "models", "namespace": namespace}
        cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": quota})
        platform = retired(namespaces=[namespace])
        bundle = make_servable("quota")
        ref = applied(platform, bundle)
        wait_until_ready(platform, ref)
        applied(platform, bundle, replicas=2)
        status = says(
            platform, ref, "the quota models is full: requests.memory: 128Mi of 200Mi used", "56Mi too much"
        )
        assert (status.phase, len(status.endpoints)) == (IN_PROGRESS, 1)
        # Room is made, and nobody asks for the pod again.
        cluster.kubectl(
            "patch", "quota", "models", "-n", namespace, "-p", '{"spec":{"hard":{"requests.memory":"1Gi"}}}'
        )
        assert len(wait_until_ready(platform, ref).endpoints) == 2


def test_a_pod_larger_than_the_quota_fails_at_once(
    cluster: Cluster, retired: MakePlatform, make_servable: MakeBundle
) -> None:
    with cluster.namespace() as namespace:
        metadata = {"name": "small", "namespace": namespace}
        quota = {"hard": {"requests.memory": "64Mi"}}
        cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": quota})
        platform = retired(namespaces=[namespace])
        ref = applied(platform, make_servable("too_large"))
        assert says(platform, ref, "the quota small is full").phase is FAILED


def test_what_admission_forbids_fails_at_once_in_its_own_words(
    cluster: Cluster, retired: MakePlatform, make_servable: MakeBundle
) -> None:
    with cluster.namespace(enforce="restricted") as namespace:
        # A folder of the node is what the standard "restricted" forbids.
        platform = retired(namespaces=[namespace])
        ref = applied(platform, make_servable("forbidden"))
        status = says(platform, ref, 'violates PodSecurity "restricted', "hostPath")
        assert status.phase is FAILED


def test_a_priority_class_that_is_not_there_fails_at_once(
    retired: MakePlatform, make_servable: MakeBundle
) -> None:
    platform = retired()
    ref = applied(platform, make_servable("class", kubernetes={"priority_class": "gold"}))
    assert says(platform, ref, "no PriorityClass with name gold").phase is FAILED


def test_a_pod_that_needs_more_memory_than_its_limit_fails_and_says_the_limit(
    retired: MakePlatform, make_servable: MakeBundle
) -> None:
    platform = retired()
    asked = {"resources": {"requests": {"memory": "24Mi"}, "limits": {"memory": "24Mi"}}}
    ref = applied(platform, make_servable("oom", kubernetes=asked))
    status = says(platform, ref, "more memory than its limit, 24Mi")
    assert status.phase is FAILED
    assert "memory" in status.remedy


def test_a_pod_that_ends_at_start_fails_with_its_last_words(
    retired: MakePlatform, unservable: Bundle
) -> None:
    platform = retired()
    ref = applied(platform, unservable)
    status = says(platform, ref, "ended with exit code 1", "is not a bundle manifest")
    assert status.phase is FAILED
    assert "kubectl logs --previous" in status.remedy


def test_a_pod_that_is_not_ready_in_time_is_restarted_and_says_so(
    retired: MakePlatform, make_servable: MakeBundle
) -> None:
    platform = retired()
    slow = {
        "resources": {
            "requests": {"cpu": "10m", "memory": "128Mi"},
            "limits": {"cpu": "50m", "memory": "384Mi"},
        }
    }
    ref = applied(platform, make_servable("slow", kubernetes=slow, ready_timeout_seconds=1))
    status = says(platform, ref, "did not answer in time", "Startup probe failed")
    assert status.phase is IN_PROGRESS
    assert "ready_timeout_seconds" in status.remedy
