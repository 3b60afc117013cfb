"""How a model's users fare, in a word and in words."""

from __future__ import annotations

from dataclasses import replace

from model_store.errors import Retryable
from serving.control.queries.health import HealthMonitor, judge
from serving.control.queries.statuses import HealthNow, ModelHealth
from serving.metrics.base import EndpointCounters
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Route, Slot, TrafficSplit

ONE, TWO = Endpoint("127.0.0.1", 1), Endpoint("127.0.0.1", 2)


def arm(version: int, endpoint: Endpoint) -> Deployment:
    return Deployment(DeploymentRef("m", Slot.BLUE, "b", version), (endpoint,))


ROUTE = Route("m", 1, ALL_STABLE, arm(1, ONE), arm(2, TWO))


def counters(requests: int, errors: int = 0, *, healthy: bool = True) -> EndpointCounters:
    return EndpointCounters(requests, errors, 0, 0, healthy)


def over_a_minute(before: EndpointCounters, now: EndpointCounters) -> ModelHealth:
    return judge(ROUTE, [(0.0, {ONE: before}), (60.0, {ONE: now})]).health


def test_requests_without_failures_are_healthy() -> None:
    found = judge(ROUTE, [(0.0, {ONE: counters(100)}), (60.0, {ONE: counters(500)})])
    assert found.health is ModelHealth.HEALTHY
    assert found.words == "none of 400 attempts failed in the last minute"


def test_what_failed_before_the_minute_does_not_count() -> None:
    assert over_a_minute(counters(100, 90), counters(500, 90)) is ModelHealth.HEALTHY
    assert over_a_minute(counters(100, 90), counters(500, 130)) is ModelHealth.FAILING


def test_a_single_failure_among_few_requests_is_not_failing() -> None:
    assert over_a_minute(counters(0), counters(10, 2)) is ModelHealth.HEALTHY


def refusing(refused: int, malformed: int = 0) -> HealthNow:
    now = replace(counters(300), refused=refused, malformed=malformed)
    return judge(ROUTE, [(0.0, {ONE: counters(0)}), (60.0, {ONE: now})])


def test_a_version_that_refuses_everything_is_not_healthy() -> None:
    found = refusing(300)
    assert found.health is ModelHealth.FAILING
    assert found.words == "300 of 300 requests were refused by the model (100%) in the last minute"
    assert (found.requests, found.errors, found.refused) == (300, 0, 300)


def test_what_callers_send_wrong_is_told_and_is_nobodys_failing() -> None:
    found = refusing(2, malformed=300 - 2)
    assert found.health is ModelHealth.HEALTHY
    assert found.words == (
        "2 of 300 requests were refused by the model, 298 of 300 requests were malformed (99%) "
        "in the last minute"
    )


def test_no_pod_no_requests_no_version_and_no_gateway_have_words_of_their_own() -> None:
    assert over_a_minute(counters(1), counters(1, healthy=False)) is ModelHealth.DOWN
    assert over_a_minute(counters(7), counters(7)) is ModelHealth.IDLE
    assert judge(None, []).health is ModelHealth.ABSENT
    assert judge(Route("m", 0, ALL_STABLE, None, None), []).health is ModelHealth.ABSENT
    assert judge(ROUTE, None).health is ModelHealth.UNKNOWN


def test_counters_that_began_again_count_from_nothing() -> None:
    found = judge(ROUTE, [(0.0, {ONE: counters(900, 9)}), (60.0, {ONE: counters(50, 0)})])
    assert (found.requests, found.errors) == (50, 0)


def test_only_arms_with_traffic_count() -> None:
    canary = Route("m", 2, TrafficSplit(80, 20), ROUTE.stable, ROUTE.candidate)
    looks = [(0.0, {ONE: counters(0), TWO: counters(0)}), (60.0, {ONE: counters(80), TWO: counters(20, 20)})]
    assert judge(ROUTE, looks).requests == 80
    assert judge(canary, looks).errors == 20


class Proxy:
    """Answers as long as it is up, and counts who asks."""

    up = True
    asked = 0

    def counters(self) -> dict[str, dict[Endpoint, EndpointCounters]]:
        self.asked += 1
        if not self.up:
            raise Retryable("the proxy is down", remedy="start it", delay_seconds=1)
        return {"m": {ONE: counters(10 * self.asked)}}


def test_however_many_ask_the_proxy_is_asked_every_two_seconds() -> None:
    proxy, clock = Proxy(), [0.0]
    watch = HealthMonitor(proxy, monotonic=lambda: clock[0])
    for _ in range(50):
        watch.of(ROUTE)
    assert proxy.asked == 1
    clock[0] = 2.0
    assert watch.of(ROUTE).requests == 10
    proxy.up = False
    clock[0] = 4.0
    assert watch.of(ROUTE).health is ModelHealth.UNKNOWN
