from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.control.analysis import Increment, begin, observe, verdict
from serving.control.rollout.observe import LONGEST_LOOK_SECONDS, ObservedCounts, look, share_in_force
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.rollout.record import EndpointCounts
from serving.metrics.base import EndpointCounters
from serving.types import (
    ALL_STABLE,
    Counts,
    Deployment,
    Endpoint,
    Outcome,
    Route,
    RouteSettings,
    Slot,
    TrafficSplit,
)
from tests.unit.serving.world import NOTHING, PLAN, World, deployed

STABLE, CANDIDATE = deployed(1, Slot.BLUE), deployed(2, Slot.GREEN)
ROUTE = Route("fraud", 3, TrafficSplit(50, 50), STABLE, CANDIDATE)
STATE: RolloutState = World().state


def counters(
    stable: tuple[int, int, int] = (0, 0, 0), candidate: tuple[int, int, int] = (0, 0, 0)
) -> dict[Endpoint, EndpointCounters]:
    return {
        STABLE.endpoints[0]: EndpointCounters(*stable, active=0, healthy=True),
        CANDIDATE.endpoints[0]: EndpointCounters(*candidate, active=0, healthy=True),
    }


def after(*looks: dict[Endpoint, EndpointCounters], every: float = 0.25) -> ObservedCounts:
    tally = ObservedCounts()
    for number, seen in enumerate(looks):
        tally, _ = look(tally, STATE, ROUTE, seen, monotonic=100 + number * every)
    return tally


def test_what_stable_did_before_the_release_is_not_counted() -> None:
    tally = after(counters(stable=(1000, 50, 7)), counters(stable=(1010, 51, 7)))
    assert (tally.stable.requests, tally.stable.errors, tally.stable.slow) == (10, 1, 0)


def test_all_that_a_candidates_endpoint_did_is_this_releases() -> None:
    tally = after(counters(candidate=(30, 4, 0)))
    assert (tally.candidate.requests, tally.candidate.errors) == (30, 4)


def test_slow_answers_of_a_pod_that_had_the_address_before_are_not_the_candidates() -> None:
    tally = after(counters(candidate=(0, 0, 40)), counters(candidate=(10, 0, 42)))
    assert tally.candidate.slow == 2


def test_a_proxy_that_restarted_takes_nothing_away_and_adds_nothing_twice() -> None:
    looks = [counters(stable=(0, 0, 0)), counters(stable=(100, 9, 3)), counters(stable=(2, 1, 0))]
    tally = after(*looks)
    assert "began again" in tally.doubt
    assert tally.stable == Counts(100, 9, 3, 0.5)
    going_on = after(*looks, counters(stable=(12, 1, 1)))
    assert not going_on.doubt
    assert (going_on.stable.requests, going_on.stable.errors, going_on.stable.slow) == (110, 9, 4)


def test_a_slow_answer_counted_before_its_request_waits_for_it() -> None:
    early = after(counters(), counters(candidate=(0, 0, 1)))
    assert early.candidate.slow == 0
    later = after(counters(), counters(candidate=(0, 0, 1)), counters(candidate=(1, 0, 1)))
    assert later.candidate == Counts(1, 0, 1, 0.5)


def test_an_endpoint_that_is_not_listed_for_a_moment_loses_nothing() -> None:
    tally = after(counters(candidate=(10, 1, 0)), {}, counters(candidate=(15, 1, 0)))
    assert tally.candidate.requests == 15


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_an_uptime_that_jumps_neither_ends_a_hold_nor_turns_it_back(jump: float) -> None:
    tally, _ = look(ObservedCounts(), STATE, ROUTE, counters(), monotonic=1000)
    tally, _ = look(tally, STATE, ROUTE, counters(), monotonic=1001)
    tally, increment = look(tally, STATE, ROUTE, counters(), monotonic=1001 + jump)
    assert 1 <= tally.step_seconds <= 1 + LONGEST_LOOK_SECONDS
    assert increment.candidate.window_seconds >= 0


def test_observed_time_begins_again_with_each_step() -> None:
    tally = after(counters(), counters(), counters())
    assert tally.step_seconds == pytest.approx(0.5)
    moved = replace(STATE, step=1, phase=Phase.PROGRESSING)
    assert look(tally, moved, ROUTE, counters(), monotonic=101)[0].step_seconds == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [(-5, 0, 0), (5, -1, 0), (5, 0, -2), (3, 4, 0)])
def test_impossible_counters_are_never_taken_for_health(bad: tuple[int, int, int]) -> None:
    tally, increment = look(ObservedCounts(), STATE, ROUTE, counters(candidate=bad), monotonic=1)
    tally, again = look(tally, STATE, ROUTE, counters(candidate=bad), monotonic=2)
    assert increment.problem or tally.doubt
    assert again.candidate.requests == 0


def rejecting(requests: int, refused: int, malformed: int) -> dict[Endpoint, EndpointCounters]:
    seen = counters(candidate=(requests, 0, 0))
    ours = CANDIDATE.endpoints[0]
    return {**seen, ours: replace(seen[ours], refused=refused, malformed=malformed)}


def test_what_was_refused_in_the_first_look_is_counted_where_the_preview_was_seen_before() -> None:
    ours = CANDIDATE.endpoints[0]
    preview = replace(NOTHING, weight=0, healthy=False, refused=40, malformed=2, repeated=40)
    live = replace(NOTHING, requests=10, errors=7, refused=47, malformed=5, repeated=47)
    tally = after({ours: preview}, {ours: live})
    assert tally.candidate == Counts(10, 0, 0, 0.25, refused=7, malformed=3)


def test_a_refusal_that_was_repeated_is_no_error_whichever_is_known_first() -> None:
    ours = CANDIDATE.endpoints[0]
    looks = [replace(NOTHING, requests=n, errors=n, refused=n + 1, repeated=n + 1) for n in range(9)]
    tally = after(
        {ours: NOTHING}, *({ours: each} for each in looks), {ours: replace(looks[8], requests=9, errors=9)}
    )
    assert tally.candidate == Counts(9, 0, 0, 2.5, refused=9)
    failing = replace(looks[8], requests=12, errors=12)
    assert after({ours: NOTHING}, {ours: failing}).candidate == Counts(12, 3, 0, 0.25, refused=9)


def test_refusals_are_neither_answers_nor_errors() -> None:
    tally = after(rejecting(0, 40, 2), rejecting(10, 44, 5))
    assert tally.candidate == Counts(10, 0, 0, 0.25, refused=4, malformed=3)
    assert tally.candidate.answered == 3


def test_a_refusal_known_before_its_request_waits_for_it() -> None:
    tally = after(rejecting(0, 0, 0), rejecting(0, 1, 0), rejecting(1, 1, 0))
    assert tally.candidate == Counts(1, 0, 0, 0.5, refused=1)


def test_a_controller_goes_on_from_a_record_of_before_refusals_were_counted() -> None:
    tally = after(rejecting(10, 0, 0))
    raw = {endpoint: EndpointCounts(*stand[:3]) for endpoint, stand in tally.raw.items()}
    tally, _ = look(replace(tally, raw=raw), STATE, ROUTE, rejecting(20, 300, 9), monotonic=101)
    assert (tally.candidate.requests, tally.candidate.rejected, tally.doubt) == (20, 0, "")
    tally, _ = look(tally, STATE, ROUTE, rejecting(22, 302, 9), monotonic=102)
    assert tally.candidate.refused == 2


values = st.integers(0, 50)


@given(st.lists(st.tuples(*[values] * 6), min_size=1, max_size=30))
def test_counts_never_shrink_whatever_the_counters_do(raws: list[tuple[int, ...]]) -> None:
    tally = ObservedCounts()
    for number, (requests, errors, slow, stable, refused, malformed) in enumerate(raws):
        seen = counters(stable=(stable, 0, 0), candidate=(max(requests, errors), errors, slow))
        ours = CANDIDATE.endpoints[0]
        seen[ours] = replace(seen[ours], refused=refused, malformed=malformed)
        before = tally
        tally, increment = look(tally, STATE, ROUTE, seen, monotonic=number)
        assert tally.candidate.requests >= before.candidate.requests
        assert tally.candidate.errors >= before.candidate.errors
        assert tally.stable.requests >= before.stable.requests
        assert 0 <= increment.candidate.slow <= increment.candidate.requests


def weighed(
    stable: tuple[int, int, bool] | None, candidate: tuple[int, int, bool] | None
) -> dict[Endpoint, EndpointCounters]:
    arms: list[tuple[Deployment, tuple[int, int, bool] | None]] = [(STABLE, stable), (CANDIDATE, candidate)]
    return {
        deployment.endpoints[0]: EndpointCounters(0, 0, 0, 0, healthy=arm[2], weight=arm[0], priority=arm[1])
        for deployment, arm in arms
        if arm
    }


@pytest.mark.parametrize(
    ("stable", "candidate", "share"),
    [
        ((9, 0, True), (1, 0, True), 0.1),
        ((9, 0, True), (1, 0, False), 0.0),
        ((9, 0, False), (1, 0, True), 1.0),
        ((1, 1, True), (1, 0, True), 1.0),
        ((1, 1, True), (1, 0, False), 0.0),
        ((1, 0, True), None, 0.0),
        (None, (1, 0, True), 1.0),
        (None, None, 0.0),
    ],
)
def test_the_share_is_what_the_proxy_applies_now(
    stable: tuple[int, int, bool] | None, candidate: tuple[int, int, bool] | None, share: float
) -> None:
    assert share_in_force(ROUTE, weighed(stable, candidate)) == share


def test_across_a_change_of_weight_the_smaller_share_counts() -> None:
    tally, first = look(ObservedCounts(), STATE, ROUTE, weighed((1, 0, True), (1, 0, True)), monotonic=1)
    tally, second = look(tally, STATE, ROUTE, weighed((1, 0, True), (9, 0, True)), monotonic=2)
    _, third = look(tally, STATE, ROUTE, weighed((1, 0, True), (9, 0, True)), monotonic=3)
    assert (first.share, second.share, third.share) == (0.0, 0.5, 0.9)


def test_a_share_is_settled_once_everything_begun_before_it_must_have_finished() -> None:
    half, most = weighed((1, 0, True), (1, 0, True)), weighed((1, 0, True), (9, 0, True))
    tally, settled = ObservedCounts(), []
    for number in range(14):
        tally, increment = look(tally, STATE, ROUTE, half if number < 6 else most, monotonic=number * 0.25)
        settled.append(increment.settled)
    # 1 s is the time limit of a request: unsettled from the first share above 0, and again after the rise
    assert settled == [True] + 4 * [False] + 2 * [True] + 3 * [False] + 4 * [True]


def test_repeats_go_to_stable_only_where_requests_may_be_repeated() -> None:
    once = replace(ROUTE, settings=RouteSettings(idempotent=False))
    alone = replace(ROUTE, stable=None, split=TrafficSplit(0, 100))
    kept = [
        look(ObservedCounts(), STATE, route, {}, monotonic=1)[1].retries_on_stable
        for route in (ROUTE, once, alone)
    ]
    assert kept == [True, False, False]
    assert PLAN.steps[0].split != ALL_STABLE


def candidate_of(requests: int, errors: int, *, broken: int = 0, abandoned: int = 0) -> EndpointCounters:
    return EndpointCounters(requests, errors, 0, active=0, healthy=True, abandoned=abandoned, broken=broken)


def told(*looks: EndpointCounters, stable: int = 0) -> list[Increment]:
    """The increments of a candidate with these counters, stable answering `stable` requests a look."""
    tally, found = ObservedCounts(), []
    for number, seen in enumerate(looks):
        both = counters(stable=(number * stable, 0, 0)) | {CANDIDATE.endpoints[0]: seen}
        tally, increment = look(tally, STATE, ROUTE, both, monotonic=100 + number)
        found.append(increment)
    return found


def test_an_answer_that_breaks_later_than_it_began_is_an_error_of_the_next_request() -> None:
    looks = [
        candidate_of(0, 0),
        candidate_of(1, 0),
        candidate_of(1, 1, broken=1),
        candidate_of(2, 1, broken=1),
    ]
    found = told(*looks)
    assert [each.problem for each in found] == [""] * 4
    assert [(each.candidate.requests, each.candidate.errors) for each in found] == [
        (0, 0),
        (1, 0),
        (0, 0),
        (1, 1),
    ]


def test_what_broke_at_an_address_before_is_not_the_candidates() -> None:
    first, second = told(candidate_of(7, 5, broken=4, abandoned=3), candidate_of(8, 5, broken=4, abandoned=3))
    assert (first.candidate.requests, first.candidate.errors) == (4, 1)
    assert (second.candidate.requests, second.candidate.errors) == (1, 0)


def test_answers_that_broke_are_not_taken_for_repeated_ones() -> None:
    found = told(
        candidate_of(0, 0), candidate_of(2, 1), candidate_of(4, 3, broken=2), candidate_of(5, 3, broken=2)
    )
    assert [each.retries_on_stable for each in found] == [True, True, False, True]


def test_what_broke_at_an_address_before_it_got_traffic_takes_no_repeat_away() -> None:
    alone = {STABLE.endpoints[0]: NOTHING}
    tally, _ = look(ObservedCounts(), STATE, replace(ROUTE, split=ALL_STABLE), alone, monotonic=100)
    for number in (1, 2):
        seen = alone | {CANDIDATE.endpoints[0]: candidate_of(number, 4 + number, broken=4)}
        tally, increment = look(tally, STATE, ROUTE, seen, monotonic=100 + number)
        assert (increment.candidate.errors, increment.retries_on_stable) == (1, True)


def test_a_candidate_whose_answers_all_break_fails_at_half_of_the_traffic() -> None:
    belief = begin()
    for increment in told(*(candidate_of(n, n, broken=n) for n in range(30)), stable=1):
        belief = observe(PLAN.policy, belief, increment)
    assert verdict(PLAN.policy, belief, at=datetime.now(UTC)).outcome is Outcome.FAIL
