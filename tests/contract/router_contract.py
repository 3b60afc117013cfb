"""What every `TrafficRouter` does. Subclass `RouterContract` and give it a `router` fixture."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from serving.gateway.router.base import StaleRoute, TrafficRouter, UnknownService
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, RouteSettings, Slot, TrafficSplit

BLUE = Deployment(DeploymentRef("m", Slot.BLUE, "12e4567", 1), (Endpoint("127.0.0.1", 9001),))
GREEN = Deployment(DeploymentRef("m", Slot.GREEN, "bb", 2), (Endpoint("127.0.0.1", 9002),))


def elsewhere(deployment: Deployment) -> Deployment:
    """The same, on another machine."""
    return replace(deployment, endpoints=(Endpoint("10.0.0.7", 8080), Endpoint("10.0.0.8", 8080)))


class RouterContract:
    def test_an_unknown_service_lists_what_exists(self, router: TrafficRouter) -> None:
        router.write("fraud", ALL_STABLE, stable=BLUE, candidate=None, at=0)
        with pytest.raises(UnknownService, match="fraud"):
            router.read("credit")

    def test_what_was_written_is_read_back(self, router: TrafficRouter) -> None:
        settings = RouteSettings(timeout_ms=250, idempotent=False, latency_objective_ms=33.5)
        written = router.write(
            "m", TrafficSplit(87.5, 12.5), stable=BLUE, candidate=GREEN, at=0, settings=settings
        )
        assert router.read("m") == written
        assert (written.revision, written.stable, written.candidate) == (1, BLUE, GREEN)
        assert written.settings == settings

    def test_settings_stay_until_others_are_given(self, router: TrafficRouter) -> None:
        settings = RouteSettings(timeout_ms=250)
        router.write("m", ALL_STABLE, stable=BLUE, candidate=None, at=0, settings=settings)
        assert router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=1).settings == settings

    def test_a_write_decided_on_an_older_route_is_refused_and_changes_nothing(
        self, router: TrafficRouter
    ) -> None:
        router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=0)
        rolled_back = router.write("m", ALL_STABLE, stable=BLUE, candidate=None, at=1)
        with pytest.raises(StaleRoute):
            router.write("m", TrafficSplit(0, 100), stable=BLUE, candidate=GREEN, at=1)
        assert router.read("m") == rolled_back

    def test_creating_a_route_twice_is_refused(self, router: TrafficRouter) -> None:
        router.write("m", ALL_STABLE, stable=BLUE, candidate=None, at=0)
        with pytest.raises(StaleRoute):
            router.write("m", ALL_STABLE, stable=GREEN, candidate=None, at=0)

    def test_of_many_writers_at_one_revision_exactly_one_wins(self, router: TrafficRouter) -> None:
        router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=0)

        def attempt(weight: int) -> bool:
            try:
                router.write("m", TrafficSplit(100 - weight, weight), stable=BLUE, candidate=GREEN, at=1)
            except StaleRoute:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            wins = list(pool.map(attempt, range(1, 25)))
        assert wins.count(True) == 1
        assert router.read("m").split.candidate == wins.index(True) + 1

    def test_services_are_listed_in_order(self, router: TrafficRouter) -> None:
        for name in ("b", "a", "c.d"):
            router.write(name, ALL_STABLE, stable=None, candidate=None, at=0)
        assert router.services() == ["a", "b", "c.d"]

    def test_pods_that_moved_are_followed_without_moving_weights(self, router: TrafficRouter) -> None:
        settings = RouteSettings(timeout_ms=250)
        half = TrafficSplit(50, 50)
        before = router.write("m", half, stable=BLUE, candidate=GREEN, at=0, settings=settings)
        moved = router.move(elsewhere(BLUE))
        assert moved == replace(before, stable=elsewhere(BLUE))
        assert router.read("m") == moved
        # Nobody decided anything: what was decided on the route before is still good.
        after = router.write("m", TrafficSplit(0, 100), stable=BLUE, candidate=GREEN, at=before.revision)
        assert (after.stable, after.candidate) == (elsewhere(BLUE), GREEN)

    def test_who_decides_on_older_endpoints_brings_them_not_back(self, router: TrafficRouter) -> None:
        router.write("m", TrafficSplit(0, 100), stable=BLUE, candidate=GREEN, at=0)
        router.move(elsewhere(GREEN))
        promoted = router.write("m", ALL_STABLE, stable=GREEN, candidate=None, at=1)
        assert promoted.stable == elsewhere(GREEN)

    def test_pods_that_no_route_names_move_nothing(self, router: TrafficRouter) -> None:
        before = router.write("m", ALL_STABLE, stable=BLUE, candidate=None, at=0)
        assert router.move(elsewhere(GREEN)) == before
        assert router.move(BLUE) == before
        assert router.read("m") == before
        with pytest.raises(UnknownService, match="m"):
            router.move(Deployment(DeploymentRef("other", Slot.BLUE, "aa", 1), ()))

    def test_whether_a_route_is_taken_can_be_asked_of_one_that_is_not_the_newest(
        self, router: TrafficRouter
    ) -> None:
        before = router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=0)
        after = router.write("m", TrafficSplit(50, 50), stable=BLUE, candidate=GREEN, at=1)
        for route in (before, after):
            assert all(isinstance(words, str) for words in router.unacknowledged(route))
