"""Several proxies are one source: a restart of one is no error of all, and a silent one blinds nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from serving.metrics import proxies
from serving.metrics.base import EndpointCounters
from serving.metrics.envoy import MetricsUnavailable
from serving.metrics.latency import Buckets
from serving.metrics.proxies import Proxies
from serving.types import Endpoint
from tests.contract.metrics_contract import MetricsContract
from tests.unit.serving.gateway_process import gateway_running
from tests.unit.serving.metrics.test_envoy_admin import EnvoyScene
from tests.unit.serving.upstream import pods_running

POD, OTHER = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)


class TestProxies(MetricsContract):
    @pytest.fixture
    def scene(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoyScene]:
        with gateway_running(tmp_path_factory.mktemp("home")) as gateway, pods_running() as pods:
            scene = EnvoyScene(gateway, pods)
            scene.source.close()
            address = gateway.home.envoy_stats_url.removeprefix("http://")
            scene.source = Proxies(lambda: {"a": address}, timeout_seconds=10)
            scene.before = scene._now()
            yield scene
            scene.source.close()


class Admin:
    """Stands for one Envoy's admin port."""

    envoys: dict[str, Admin]

    def __init__(self) -> None:
        self.hosts: dict[Endpoint, EndpointCounters] = {}
        self.times: Buckets = {}
        self.answers, self.hangs = True, threading.Event()
        self.hangs.set()

    def counters(self) -> dict[str, dict[Endpoint, EndpointCounters]]:
        self.hangs.wait()
        if not self.answers:
            raise MetricsUnavailable("connection refused", remedy="", delay_seconds=1)
        return {"m": dict(self.hosts)} if self.hosts else {}

    def latencies(self, services: list[str]) -> dict[str, dict[Endpoint, Buckets]]:
        return {"m": {POD: self.times}}

    def close(self) -> None:
        """Nothing is open."""

    def served(self, requests: int, errors: int = 0, *, weight: int = 1, at: Endpoint = POD) -> None:
        self.hosts[at] = EndpointCounters(requests, errors, 0, active=1, healthy=True, weight=weight)


class Envoys:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there = {"a": Admin(), "b": Admin()}
        monkeypatch.setattr(
            proxies, "EnvoyAdmin", lambda url, timeout_seconds: self.there[url[len("http://") :]]
        )
        self.source = Proxies(lambda: {id: id for id in self.there}, timeout_seconds=0.2)

    def seen(self, endpoint: Endpoint = POD) -> tuple[int, int]:
        found = self.source.counters()["m"][endpoint]
        return found.requests, found.errors


@pytest.fixture
def envoys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Envoys]:
    made = Envoys(monkeypatch)
    for admin, requests in zip(made.there.values(), (100, 50), strict=True):
        admin.served(requests, 1)
    yield made
    for admin in made.there.values():
        admin.hangs.set()
    made.source.close()


def test_what_all_have_counted_is_summed(envoys: Envoys) -> None:
    assert envoys.seen() == (150, 2)
    envoys.there["b"].served(60, 3)
    assert envoys.seen() == (160, 4)


def test_a_restart_of_one_takes_nothing_from_the_sum(envoys: Envoys) -> None:
    envoys.seen()
    envoys.there["b"].served(2, 0)
    assert envoys.seen() == (150, 2)
    envoys.there["b"].served(5, 1)
    assert envoys.seen() == (153, 3)


@pytest.mark.parametrize("is_partial", [True, False])
def test_one_that_has_not_read_its_routes_yet_takes_nothing_from_the_sum(
    envoys: Envoys, is_partial: bool
) -> None:
    envoys.there["b"].served(7, at=OTHER)
    envoys.there["a"].served(7, at=OTHER)
    envoys.seen()
    hosts = envoys.there["b"].hosts
    envoys.there["b"].hosts = {OTHER: hosts[OTHER]} if is_partial else {}
    assert envoys.seen() == (150, 2)
    envoys.there["b"].served(4)
    assert envoys.seen() == (150, 2)
    envoys.there["b"].served(6)
    assert envoys.seen() == (152, 2)


def test_one_that_joins_later_brings_no_history(envoys: Envoys) -> None:
    late = envoys.there.pop("b")
    assert envoys.seen() == (100, 1)
    envoys.there["b"] = late
    assert envoys.seen() == (100, 1)
    late.served(55, 2)
    assert envoys.seen() == (105, 2)


def test_one_that_is_silent_is_told_and_the_other_is_counted(
    envoys: Envoys, caplog: pytest.LogCaptureFixture
) -> None:
    envoys.seen()
    envoys.there["b"].answers = False
    envoys.there["a"].served(110, 1)
    assert envoys.seen() == (160, 2)
    assert "connection refused" in envoys.source.unreadable["b"]
    assert "Envoy b" in caplog.text
    envoys.there["b"].answers = True
    envoys.there["b"].served(70, 5)
    assert envoys.seen() == (180, 6)
    assert not envoys.source.unreadable


def test_one_that_hangs_is_waited_for_once(envoys: Envoys) -> None:
    envoys.seen()
    envoys.there["b"].hangs.clear()
    for requests in (110, 120, 130):
        envoys.there["a"].served(requests, 1)
        assert envoys.seen() == (requests + 50, 2)
    assert "does not answer" in envoys.source.unreadable["b"]


def test_when_fewer_than_half_answer_nobody_knows_what_callers_see(envoys: Envoys) -> None:
    envoys.there["c"] = Admin()
    for id in ("b", "c"):
        envoys.there[id].answers = False
    with pytest.raises(MetricsUnavailable, match=r"1 of 3 Envoys.*Envoy b.*Envoy c"):
        envoys.source.counters()


def test_without_any_nothing_is_known(envoys: Envoys) -> None:
    envoys.there.clear()
    with pytest.raises(MetricsUnavailable, match="none is there"):
        envoys.source.counters()


def test_a_pod_that_is_gone_is_forgotten_in_all_and_who_has_its_address_next_begins_at_0(
    envoys: Envoys,
) -> None:
    envoys.seen()
    for admin in envoys.there.values():
        admin.hosts = {}
        admin.served(1, at=OTHER)
    assert POD not in envoys.source.counters()["m"]
    for admin in envoys.there.values():
        admin.served(3)
    assert envoys.seen() == (6, 0)


def test_while_they_apply_different_weights_the_mean_of_their_shares_is_in_force(envoys: Envoys) -> None:
    for admin, weights in zip(envoys.there.values(), ((1, 1), (3, 1)), strict=True):
        admin.served(1, weight=weights[0])
        admin.served(1, weight=weights[1], at=OTHER)
    found = envoys.source.counters()["m"]
    assert (found[POD].weight, found[OTHER].weight) == (6250, 3750)
    envoys.there["b"].served(1, weight=1)
    found = envoys.source.counters()["m"]
    assert (found[POD].weight, found[OTHER].weight) == (1, 1)


def test_of_what_does_not_change_nothing_is_made_anew(envoys: Envoys) -> None:
    kept = {id: {"m": dict(admin.hosts)} for id, admin in envoys.there.items()}
    for id, admin in envoys.there.items():
        admin.counters = lambda id=id: kept[id]  # type: ignore[method-assign,misc]
    first = envoys.source.counters()["m"]
    assert envoys.source.counters()["m"] is first


def test_how_long_answers_took_is_summed_over_restarts(envoys: Envoys) -> None:
    envoys.there["a"].times, envoys.there["b"].times = {1: 10}, {1: 5, 2: 5}
    assert envoys.source.latencies(["m"])["m"][POD] == {1: 15, 2: 5}
    envoys.there["b"].times = {1: 1}
    assert envoys.source.latencies(["m"])["m"][POD] == {1: 16, 2: 5}
