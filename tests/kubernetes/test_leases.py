"""Who of two controllers writes, as a Lease of a real cluster says it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from serving.ledger.base import Lease
from serving.platforms.kubernetes.api import ClusterApi
from serving.platforms.kubernetes.installation import Installation
from serving.platforms.kubernetes.leases import KubernetesLeases
from tests.contract.leases_contract import LeasesContract, PassTime
from tests.kubernetes.cluster import Cluster

pytestmark = pytest.mark.kubernetes


class Uptime:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def go_on(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def uptime() -> Uptime:
    return Uptime()


@pytest.fixture
def pass_time(uptime: Uptime) -> PassTime:
    return uptime.go_on


@pytest.fixture
def api(cluster: Cluster) -> ClusterApi:
    return ClusterApi(Installation(kubeconfig=str(cluster.kubeconfig)))


@pytest.fixture
def own_namespace(cluster: Cluster) -> Iterator[str]:
    with cluster.namespace() as name:
        yield name


@pytest.fixture
def leases(api: ClusterApi, own_namespace: str, uptime: Uptime) -> KubernetesLeases:
    return KubernetesLeases(api, own_namespace, prefix="slipway", monotonic=uptime)


class TestKubernetesLeases(LeasesContract):
    pass


def test_of_many_that_ask_at_once_one_has_it(api: ClusterApi, own_namespace: str) -> None:
    found: list[Lease | None] = []
    together = threading.Barrier(8)

    def ask(number: int) -> None:
        leases = KubernetesLeases(api, own_namespace, prefix="slipway", monotonic=time.monotonic)
        together.wait(10)
        found.append(leases.acquire("controller", f"c{number}", seconds=60))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len([each for each in found if each]) == 1


def test_one_that_begins_believes_nobodys_clock(
    api: ClusterApi, own_namespace: str, cluster: Cluster
) -> None:
    """The object's time is long past by this machine's clock, which may be the one that is wrong."""
    old = KubernetesLeases(api, own_namespace, prefix="slipway", monotonic=time.monotonic)
    lease = old.acquire("controller", "a", seconds=2)
    assert lease
    past = '{"spec": {"renewTime": "2001-01-01T00:00:00.000000Z"}}'
    cluster.kubectl("-n", own_namespace, "patch", "lease", "slipway-controller", "--type=merge", "-p", past)
    new = KubernetesLeases(api, own_namespace, prefix="slipway", monotonic=time.monotonic)
    assert new.acquire("controller", "b", seconds=2) is None
    deadline = time.monotonic() + 30
    while (taken := new.acquire("controller", "b", seconds=2)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert taken.token == lease.token + 1
