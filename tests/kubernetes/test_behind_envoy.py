"""A real Envoy before pods of a real cluster: callers notice nothing while pods come and go."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from model_store.types import Bundle
from serving.control.controller.pods import PodWatch
from serving.gateway.router.base import TrafficRouter
from serving.platforms.kubernetes.api import ClusterApi
from serving.platforms.kubernetes.platform import KubernetesPlatform
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Slot, TrafficSplit
from tests.contract.platform_contract import applied, wait_for, wait_until_ready
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.conftest import MakePlatform
from tests.kubernetes.test_pods_come_and_go import hosts, pods, process_of
from tests.unit.serving.gateway_process import Gateway, gateway_running

pytestmark = pytest.mark.kubernetes

ROW = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}
MakeBundle = Callable[..., Bundle]


@pytest.fixture
def platform(make_platform: MakePlatform) -> Iterator[KubernetesPlatform]:
    """With the notice that is usual: it has to be longer than `PodWatch` takes to look."""
    made = make_platform(notice_seconds=5)
    yield made
    for ref in made.deployments():
        made.retire(ref)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with gateway_running(tmp_path / "gateway") as running:
        yield running


@contextmanager
def followed(platform: KubernetesPlatform, router: TrafficRouter) -> Iterator[None]:
    """As the controller follows pods."""
    ending = threading.Event()
    watch = threading.Thread(target=PodWatch(platform, router).run, args=(ending,))
    watch.start()
    try:
        yield
    finally:
        ending.set()
        watch.join()


@contextmanager
def callers(gateway: Gateway, service: str, *, count: int = 3) -> Iterator[Counter[object]]:
    """What they were answered, by status or by what went wrong instead."""
    answers: Counter[object] = Counter()
    ending, body = threading.Event(), orjson.dumps(ROW)

    def call() -> None:
        with httpx.Client(base_url=gateway.home.gateway_url, timeout=20) as client:
            while not ending.is_set():
                try:
                    answers[client.post(f"/v2/models/{service}/infer", content=body).status_code] += 1
                except httpx.HTTPError as problem:
                    answers[repr(problem)] += 1
                time.sleep(0.01)

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ending.set()
        for thread in threads:
            thread.join()


def served(platform: KubernetesPlatform, gateway: Gateway, bundle: Bundle, *, replicas: int) -> DeploymentRef:
    """Pods that are ready, in a route, and asked by Envoy."""
    ref = applied(platform, bundle, replicas=replicas)
    stable = Deployment(ref, wait_until_ready(platform, ref).endpoints)
    gateway.router.write(ref.service, ALL_STABLE, stable=stable, candidate=None, at=0)
    body = orjson.dumps(ROW)
    gateway.wait(lambda: gateway.infer(ref.service, body=body).status_code == 200, seconds=20)
    return ref


def test_nobody_notices_that_pods_are_deleted_one_after_the_other(
    cluster: Cluster,
    platform: KubernetesPlatform,
    gateway: Gateway,
    namespace: str,
    make_servable: MakeBundle,
) -> None:
    ref = served(platform, gateway, make_servable("rolled"), replicas=2)
    before = hosts(platform.status(ref))
    with followed(platform, gateway.router), callers(gateway, "rolled") as answers:
        for address, pod in pods(cluster, namespace, "rolled").items():
            cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", namespace)
            wait_for(platform, ref, lambda status, old=address: status.is_ready and old not in hosts(status))
        # The last one to come is asked, too.
        gateway.wait(
            lambda: {each.host for each in gateway.router.read("rolled").stable.endpoints}.isdisjoint(before)
        )
        time.sleep(2)
    assert set(answers) == {200}, answers
    assert answers[200] > 500


def test_a_pod_that_ends_is_out_of_the_route_without_another_look(
    cluster: Cluster,
    platform: KubernetesPlatform,
    gateway: Gateway,
    namespace: str,
    make_servable: MakeBundle,
) -> None:
    """Nobody looks again within an hour: what is known was heard."""
    ref = served(platform, gateway, make_servable("heard"), replicas=2)
    ending, watch = threading.Event(), PodWatch(platform, gateway.router)
    watch.look()
    threading.Thread(target=watch.run, args=(ending,), kwargs={"every_seconds": 3600}, daemon=True).start()
    try:
        for address, pod in pods(cluster, namespace, "heard").items():
            time.sleep(1)  # The watch begins.
            cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", namespace, "--wait=false")
            gateway.wait(lambda old=address: old not in routed(gateway, ref.service), seconds=60)
            wait_until_ready(platform, ref)
        gateway.wait(lambda: len(routed(gateway, ref.service)) == 2, seconds=60)
    finally:
        ending.set()


def test_a_watch_that_has_expired_is_begun_anew(
    cluster: Cluster,
    platform: KubernetesPlatform,
    gateway: Gateway,
    namespace: str,
    make_servable: MakeBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From what the server has long forgotten. No endpoint is lost by it, and what follows is heard."""
    ref = served(platform, gateway, make_servable("expired"), replicas=2)
    asked, said = [], []
    version, watch = ClusterApi.version, ClusterApi.watch

    def old_at_first(api: ClusterApi, kind: str, namespace: str, *, labels: str) -> str:
        asked.append(version(api, kind, namespace, labels=labels))
        return "1" if len(asked) == 1 else asked[-1]

    def noting(api: ClusterApi, *where: str, **how: Any) -> Iterator[bytes]:
        for line in watch(api, *where, **how):
            said.append(orjson.loads(line))
            yield line

    monkeypatch.setattr(ClusterApi, "version", old_at_first)
    monkeypatch.setattr(ClusterApi, "watch", noting)
    ending, following = threading.Event(), PodWatch(platform, gateway.router)
    following.look()
    before = routed(gateway, "expired")
    told = {"every_seconds": 3600}
    threading.Thread(target=following.run, args=(ending,), kwargs=told, daemon=True).start()
    try:
        gateway.wait(lambda: len(asked) > 1)
        assert [each["object"]["code"] for each in said if each["type"] == "ERROR"] == [410]
        assert routed(gateway, "expired") == before
        time.sleep(1)
        address, pod = next(iter(pods(cluster, namespace, "expired").items()))
        cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", namespace, "--wait=false")
        gateway.wait(lambda: address not in routed(gateway, ref.service), seconds=60)
    finally:
        ending.set()


def routed(gateway: Gateway, service: str) -> set[str]:
    stable = gateway.router.read(service).stable
    return {each.host for each in stable.endpoints} if stable else set()


def test_nobody_notices_that_a_pod_is_killed(
    cluster: Cluster,
    platform: KubernetesPlatform,
    gateway: Gateway,
    namespace: str,
    make_servable: MakeBundle,
) -> None:
    if not cluster.is_ours:
        pytest.skip("processes of another machine's pods cannot be killed from here")
    ref = served(platform, gateway, make_servable("killed"), replicas=2)
    with followed(platform, gateway.router), callers(gateway, "killed") as answers:
        time.sleep(1)
        pod = next(iter(pods(cluster, namespace, "killed").values()))
        os.kill(process_of(pod), signal.SIGKILL)
        wait_for(platform, ref, lambda status: not status.is_ready)
        wait_until_ready(platform, ref)
        time.sleep(2)
    assert set(answers) == {200}, answers


def test_nobody_notices_that_the_only_pod_of_a_candidate_is_replaced(
    cluster: Cluster,
    platform: KubernetesPlatform,
    gateway: Gateway,
    namespace: str,
    make_servable: MakeBundle,
) -> None:
    """Half of the traffic is the candidate's, whose only pod is deleted: stable answers meanwhile."""
    ref = served(platform, gateway, make_servable("canaried"), replicas=1)
    candidate = applied(platform, make_servable("canaried", 2), Slot.GREEN)
    where = wait_until_ready(platform, candidate).endpoints
    gateway.router.write(
        "canaried",
        TrafficSplit(50, 50),
        stable=Deployment(ref, platform.status(ref).endpoints),
        candidate=Deployment(candidate, where),
        at=1,
    )
    with followed(platform, gateway.router), callers(gateway, "canaried") as answers:
        time.sleep(2)
        for pod in cluster.get("pods", "-n", namespace, "-l", "slipway/service=canaried,slipway/slot=green")[
            "items"
        ]:
            cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", namespace)
        wait_for(platform, candidate, lambda status: status.is_ready and status.endpoints != where)
        gateway.wait(lambda: gateway.router.read("canaried").candidate.endpoints != where)
        time.sleep(2)
    assert set(answers) == {200}, answers
