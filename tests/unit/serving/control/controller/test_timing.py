"""The controller writes down how long both arms' answers took, and never lets that keep it from guarding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from benchmarks.page.home import PLAN
from serving.control.controller.timing import EVERY_SECONDS, MOST_AT_ONCE, Timing
from serving.control.controller.watch import ReleaseWatch
from serving.control.rollout.journal import KeptJournal
from serving.control.rollout.plan import Phase, RolloutState
from serving.ledger.memory import MemoryLedger
from serving.metrics.envoy import MetricsUnavailable
from serving.metrics.latency import Buckets
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Route, Slot, Verdict

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
BLUE, GREEN = Endpoint("127.0.0.1", 8501), Endpoint("127.0.0.1", 8502)


class Proxy:
    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.silent = False
        self.count = 0

    def latencies(self, services: Iterable[str]) -> dict[str, dict[Endpoint, Buckets]]:
        self.asked.append(list(services))
        if self.silent:
            raise MetricsUnavailable("no answer", remedy="wait", delay_seconds=1)
        self.count += 10
        return {name: {BLUE: {15: self.count}, GREEN: {20: self.count}} for name in self.asked[-1]}


class Scene:
    def __init__(self, releases: int = 1) -> None:
        self.now = 1000.0
        self.proxy = Proxy()
        self.timing = Timing(self.proxy, monotonic=lambda: self.now)
        self.active = [(_state(f"m{n}"), _route(f"m{n}")) for n in range(releases)]
        self.watches = {state.release_id: ReleaseWatch() for state, _ in self.active}

    def look(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.timing.look(self.active, self.watches)

    @property
    def watch(self) -> ReleaseWatch:
        return self.watches[self.active[0][0].release_id]


def _state(service: str) -> RolloutState:
    return RolloutState(
        release_id=f"{service}-v2-20261121T120000Z",
        service=service,
        version=2,
        previous_version=1,
        plan=PLAN,
        step=0,
        step_started_at=NOW,
        phase=Phase.PROGRESSING,
        generation=1,
        deployment_id=f"{service}-green-x",
        started_at=NOW,
        route_revision=1,
    )


def _route(service: str) -> Route:
    arms = [
        Deployment(DeploymentRef(service, slot, "x", version), (endpoint,))
        for version, slot, endpoint in ((1, Slot.BLUE, BLUE), (2, Slot.GREEN, GREEN))
    ]
    return Route(service, 1, ALL_STABLE, arms[0], arms[1])


def test_what_both_arms_took_since_the_first_look_is_kept() -> None:
    scene = Scene()
    scene.look()
    scene.look(EVERY_SECONDS)
    assert (scene.watch.latencies.stable, scene.watch.latencies.candidate) == ({15: 10}, {20: 10})


def test_a_tick_costs_nothing_until_it_is_due_again() -> None:
    scene = Scene()
    for _ in range(20):
        scene.look(0.2)
    assert len(scene.proxy.asked) == 1


def test_with_many_releases_each_gets_its_turn() -> None:
    scene = Scene(releases=3 * MOST_AT_ONCE)
    for _ in range(3):
        scene.look(0.2)
    assert [len(names) for names in scene.proxy.asked] == [MOST_AT_ONCE] * 3
    assert len({name for names in scene.proxy.asked for name in names}) == 3 * MOST_AT_ONCE


def test_a_silent_proxy_is_asked_again_later_and_nothing_is_lost() -> None:
    scene = Scene()
    scene.look()
    scene.proxy.silent = True
    scene.look(EVERY_SECONDS)
    scene.proxy.silent = False
    scene.look(EVERY_SECONDS)
    assert scene.watch.latencies.stable == {15: 10}


def test_records_have_it_where_more_is_known_than_before_and_a_new_controller_goes_on_from_there() -> None:
    scene = Scene()
    state, route = scene.active[0]
    journal = KeptJournal(MemoryLedger())
    scene.watch.verdict = Verdict.of([], at=NOW)
    told = []
    for second in range(8):
        scene.look(EVERY_SECONDS / 2)
        at = NOW + timedelta(seconds=second)
        record = scene.watch.record_due(state, route, at=at, monotonic=scene.now)
        assert record is not None
        journal.append(state.release_id, record)
        told.append(record.latency)
    assert [latency[0] if latency else None for latency in told[2::2]] == [{15: 10}, {15: 20}, {15: 30}]
    assert not any(told[1::2])
    again = ReleaseWatch.resume(journal, replace(state, generation=2))
    assert (again.latencies.stable, again.latencies.candidate) == ({15: 30}, {20: 30})
