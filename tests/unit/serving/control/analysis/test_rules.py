"""What the judge says of counts, in the situations people ask about."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.errors import Permanent
from serving.control.analysis import (
    AnalysisPolicy,
    Increment,
    JudgeState,
    begin,
    judge,
    observe,
    observe_all,
    verdict,
)
from serving.control.analysis.state import PLACES
from serving.types import NO_COUNTS, Counts, Finding, Outcome, Verdict

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
POLICY = AnalysisPolicy(
    alpha=0.001,
    max_error_rate=0.01,
    error_tolerance=0.005,
    latency_objective_ms=500,
    max_slow_share=0.01,
    min_requests=50,
)


@dataclass
class World:
    """Both arms under steady load; rates are chances per request. `stable` fails its repeats at its rate.

    `garbage` of all requests is malformed; `refused` (stable, candidate) of the rest its model refuses.
    """

    share: float = 0.2
    per_second: float = 200
    retries: bool = True
    policy: AnalysisPolicy = POLICY
    state: JudgeState = field(default_factory=begin)
    garbage: float = 0.0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def run(
        self,
        seconds: float,
        *,
        stable: float = 0.001,
        candidate: float = 0.001,
        slow: tuple[float, float] = (0.0, 0.0),
        arrives: float = 1.0,
        refused: tuple[float, float] = (0.0, 0.0),
    ) -> Verdict:
        for _ in range(int(seconds * 4)):
            n_c = self.rng.poisson(self.per_second / 4 * self.share * arrives)
            e_c = self.rng.binomial(n_c, candidate)
            m_c = self.rng.binomial(n_c - e_c, self.garbage)
            r_c = self.rng.binomial(n_c - e_c - m_c, refused[1])
            again = e_c + r_c if self.retries else 0
            n_s = self.rng.poisson(self.per_second / 4 * (1 - self.share)) + again
            e_s = self.rng.binomial(n_s, stable)
            m_s = self.rng.binomial(n_s - e_s, self.garbage)
            r_s = self.rng.binomial(n_s - e_s - m_s, refused[0])
            tick = Increment(
                Counts(n_s, e_s, self.rng.binomial(n_s, slow[0]), 0.25, r_s, m_s),
                Counts(n_c, e_c, self.rng.binomial(n_c, slow[1]), 0.25, r_c, m_c),
                share=self.share,
                retries_on_stable=self.retries,
            )
            self.state = observe(self.policy, self.state, tick)
            if self.is_failing:
                break
        return self.verdict

    @property
    def is_failing(self) -> bool:
        return bool(self.state.values[PLACES["peak"]].max() > 100) and self.verdict.outcome is Outcome.FAIL

    @property
    def verdict(self) -> Verdict:
        return verdict(self.policy, self.state, at=NOW)


def finding(verdict: Verdict, rule: str) -> Finding:
    return next(found for found in verdict.findings if found.rule == rule)


def test_a_healthy_candidate_passes_a_four_second_step() -> None:
    world = World(share=0.1, per_second=250)
    assert world.run(4).outcome is Outcome.PASS
    assert 50 <= world.state.candidate.requests <= 130


def test_a_candidate_that_fails_everything_is_found_within_a_few_requests() -> None:
    world = World(share=0.1, per_second=40)
    assert world.run(10, candidate=1.0).outcome is Outcome.FAIL
    assert world.state.candidate.requests <= 6


def test_twenty_percent_errors_are_found_within_two_seconds_of_fifty_requests_a_second() -> None:
    world = World(share=0.5, per_second=100)
    assert world.run(10, candidate=0.2).outcome is Outcome.FAIL
    assert world.state.seconds <= 2


def test_a_candidate_worse_by_less_than_the_tolerance_is_not_failed() -> None:
    assert World(per_second=2000).run(60, candidate=0.005).outcome is not Outcome.FAIL


def test_above_the_limit_but_within_the_tolerance_of_stable_is_failed() -> None:
    told = World(per_second=8000, share=0.5).run(120, stable=0.008, candidate=0.0125)
    assert finding(told, "error rate against the limit").outcome is Outcome.FAIL
    assert finding(told, "error rate against stable").outcome is not Outcome.FAIL


@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_when_stable_is_as_bad_the_release_is_held_and_not_failed(rate: float, share: float) -> None:
    told = World(share=share).run(60, stable=rate, candidate=rate)
    assert told.outcome is Outcome.INCONCLUSIVE
    assert "stable" in finding(told, "error rate against the limit").reason


def test_a_candidate_that_is_better_than_a_bad_stable_passes() -> None:
    assert World().run(20, stable=0.2, candidate=0.001).outcome is Outcome.PASS


def test_after_promotion_failures_that_stable_can_answer_are_the_releases_fault() -> None:
    world = World(share=0.5)
    assert world.run(10).outcome is Outcome.PASS
    world.share = 1.0
    assert world.run(10).outcome is Outcome.PASS
    assert world.run(10, candidate=0.2).outcome is Outcome.FAIL


def test_after_promotion_without_retries_the_record_and_the_limit_decide() -> None:
    world = World(share=0.5, retries=False)
    world.run(10)
    world.share = 1.0
    assert world.run(10, candidate=0.2).outcome is Outcome.FAIL


def test_a_first_release_is_judged_by_the_limits_alone() -> None:
    assert World(share=1.0, retries=False).run(10).outcome is Outcome.PASS
    told = World(share=1.0, retries=False).run(10, candidate=0.2)
    assert told.outcome is Outcome.FAIL
    assert finding(told, "error rate against the limit").outcome is Outcome.FAIL
    assert not [found for found in told.findings if found.rule == "error rate against stable"]


def test_a_candidate_that_turns_bad_after_an_hour_of_health_is_still_found_in_seconds() -> None:
    world = World(share=0.2)
    assert world.run(3600).outcome is Outcome.PASS
    before = world.state.seconds
    assert world.run(60, candidate=0.2).outcome is Outcome.FAIL
    assert world.state.seconds - before < 4


def test_a_failed_release_stays_failed_when_it_recovers() -> None:
    world = World(share=0.5)
    assert world.run(10, candidate=0.2).outcome is Outcome.FAIL
    for _ in range(2000):
        world.state = observe(
            POLICY, world.state, Increment(Counts(25, 0, 0, 0.25), Counts(25, 0, 0, 0.25), 0.5)
        )
    assert world.verdict.outcome is Outcome.FAIL


def test_slow_answers_are_failed_only_if_stables_are_faster() -> None:
    told = World().run(20, slow=(0.0, 0.3))
    assert finding(told, "slow answers").outcome is Outcome.FAIL
    assert World().run(20, slow=(0.3, 0.3)).outcome is Outcome.INCONCLUSIVE


def test_a_candidate_that_goes_silent_is_failed_for_its_lost_traffic() -> None:
    told = World(share=0.2).run(30, arrives=0.1)
    assert finding(told, "traffic").outcome is Outcome.FAIL
    assert World(share=0.2).run(30, arrives=0.8).outcome is Outcome.PASS


def test_disagreement_is_judged_where_the_policy_sets_a_limit() -> None:
    strict = AnalysisPolicy(0.001, 0.01, 0.005, 500, 0.01, 50, max_disagreement=0.05)
    tick = Increment(NO_COUNTS, NO_COUNTS, 0.0, compared=100, disagreed=30)
    assert verdict(strict, observe(strict, begin(), tick), at=NOW).outcome is Outcome.FAIL
    assert verdict(POLICY, observe(POLICY, begin(), tick), at=NOW).outcome is Outcome.INCONCLUSIVE


def test_a_candidate_that_refuses_what_stable_answers_is_failed() -> None:
    world = World(share=0.2, per_second=100)
    told = world.run(20, refused=(0.0, 0.38))
    found = finding(told, "refusals")
    assert (told.outcome, found.outcome) == (Outcome.FAIL, Outcome.FAIL)
    assert "candidate refused" in found.reason
    assert "; stable 0 of" in found.reason
    assert world.state.candidate.requests <= 60


def test_a_signature_that_takes_less_than_stables_is_this_versions_doing_too() -> None:
    told = judge(
        POLICY,
        stable=Counts(900, 0, 0, 5, malformed=9),
        candidate=Counts(100, 0, 0, 5, malformed=40),
        share=0.1,
        at=NOW,
    )
    assert finding(told, "refusals").outcome is Outcome.FAIL
    assert "40 as malformed" in finding(told, "refusals").reason


@pytest.mark.parametrize("garbage", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("refused", [0.0, 0.3])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_what_clients_send_wrong_fails_nobody_and_does_not_keep_a_release_from_going_on(
    garbage: float, refused: float, share: float
) -> None:
    world = World(share=share, garbage=garbage, per_second=1000)
    assert world.run(30, refused=(refused, refused)).outcome is Outcome.PASS


def test_clients_that_begin_to_send_garbage_after_promotion_fail_nobody() -> None:
    world = World(share=0.5)
    world.run(10)
    world.share, world.garbage = 1.0, 0.6
    assert finding(world.run(30), "refusals").outcome is Outcome.PASS


def test_after_promotion_values_that_stable_refuses_too_are_not_the_releases_fault() -> None:
    world = World(share=0.5)
    world.run(10)
    world.share = 1.0
    assert world.run(30, refused=(0.4, 0.4)).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("retries", [True, False])
def test_after_promotion_a_version_that_refuses_what_its_predecessor_took_is_failed(retries: bool) -> None:
    world = World(share=0.5, retries=retries)
    assert world.run(10).outcome is Outcome.PASS
    world.share = 1.0
    told = world.run(10, refused=(0.0, 0.38))
    assert finding(told, "refusals").outcome is Outcome.FAIL


def test_what_a_pod_has_no_room_for_is_nobodys_harm_and_no_answer() -> None:
    """The arm with the larger share gets more of the large requests, and has the less time for them."""
    stable, candidate = Counts(30, 0, 0, 5), Counts(300, 0, 0, 5, malformed=280, uninformative=280)
    told = judge(POLICY, stable=stable, candidate=candidate, share=0.9, at=NOW)
    assert finding(told, "refusals").outcome is Outcome.PASS
    assert finding(told, "requests").reason.startswith("the candidate answered 20 of the 50 requests")


def test_refusals_that_stable_calls_malformed_or_fails_are_no_harm() -> None:
    """A candidate whose signature is wider gets to know the values that stable turned away by their form."""
    for stable in (Counts(500, 0, 0, 5, malformed=200), Counts(500, 200, 0, 5)):
        candidate = Counts(500, 0, 0, 5, refused=200)
        told = judge(POLICY, stable=stable, candidate=candidate, share=0.5, at=NOW)
        assert finding(told, "refusals").outcome is not Outcome.FAIL


@pytest.mark.parametrize("kind", ["errors", "refused", "malformed"])
def test_only_answers_count_towards_the_minimum(kind: str) -> None:
    stable, candidate = Counts(300, 0, 0, 5), Counts(300, 0, 0, 5)
    stable, candidate = (replace(arm, **{kind: 300}) for arm in (stable, candidate))
    told = judge(POLICY, stable=stable, candidate=candidate, share=0.5, at=NOW)
    found = finding(told, "requests")
    assert (told.outcome, found.outcome) == (Outcome.INCONCLUSIVE, Outcome.INCONCLUSIVE)
    assert found.reason.startswith("the candidate answered 0 of the 50 requests a step needs (beside 300 ")


def test_no_requests_are_inconclusive() -> None:
    told = judge(POLICY, stable=NO_COUNTS, candidate=NO_COUNTS, share=0.1, at=NOW)
    assert told.outcome is Outcome.INCONCLUSIVE


def test_requests_of_an_earlier_step_do_not_count_towards_the_minimum() -> None:
    first = observe(POLICY, begin(), Increment(Counts(900, 0, 0, 1), Counts(100, 0, 0, 1), 0.1, step=0))
    second = observe(POLICY, first, Increment(Counts(90, 0, 0, 1), Counts(30, 0, 0, 1), 0.25, step=1))
    assert verdict(POLICY, first, at=NOW).outcome is Outcome.PASS
    assert verdict(POLICY, second, at=NOW).outcome is Outcome.INCONCLUSIVE
    assert second.step_candidate.requests == 30


def test_every_judgement_carries_numbers_reason_and_source() -> None:
    told = judge(POLICY, stable=Counts(900, 1, 0, 5), candidate=Counts(100, 20, 0, 5), share=0.1, at=NOW)
    found = finding(told, "error rate against stable")
    assert dict(found.numbers)["candidate_errors"] == 20
    assert dict(found.numbers)["e_value"] > dict(found.numbers)["e_value_needed"]
    assert (
        "candidate failed 20 of 100 requests (20%), stable 1 of 900 (0.11%), tolerance 0.5%" in found.reason
    )
    assert "arXiv" in found.source


WRONG = (
    (Counts(-1, 0, 0, 1), NO_COUNTS, 0.1),
    (NO_COUNTS, Counts(10, 11, 0, 1), 0.1),
    (NO_COUNTS, Counts(10, 4, 0, 1, refused=4, malformed=3), 0.1),
    (NO_COUNTS, Counts(10, 0, 0, 1, refused=-1), 0.1),
    (NO_COUNTS, Counts(10, 0, 0, 1, malformed=1, uninformative=2), 0.1),
    (NO_COUNTS, Counts(10, 0, -3, 1), 0.1),
    (NO_COUNTS, Counts(math.nan, 0, 0, 1), 0.1),  # type: ignore[arg-type]
    (NO_COUNTS, Counts(math.inf, 0, 0, 1), 0.1),  # type: ignore[arg-type]
    (NO_COUNTS, Counts(10, 0, 0, -5), 0.1),
    (NO_COUNTS, Counts(10, 0, 0, math.nan), 0.1),
    (NO_COUNTS, NO_COUNTS, math.nan),
    (NO_COUNTS, NO_COUNTS, 1.5),
)


@pytest.mark.parametrize(("stable", "candidate", "share"), WRONG)
def test_impossible_counts_are_an_error_and_change_no_belief(
    stable: Counts, candidate: Counts, share: float
) -> None:
    good = observe(POLICY, begin(), Increment(Counts(900, 1, 0, 5), Counts(100, 0, 0, 5), 0.1))
    bad = observe(POLICY, good, Increment(stable, candidate, share))
    assert verdict(POLICY, bad, at=NOW).outcome is Outcome.ERROR
    assert np.array_equal(bad.values, good.values)
    again = observe(POLICY, bad, Increment(Counts(9, 0, 0, 1), Counts(1, 0, 0, 1), 0.1))
    assert verdict(POLICY, again, at=NOW).outcome is Outcome.PASS


any_number = st.one_of(st.integers(-3, 500), st.floats(allow_nan=True, allow_infinity=True))
any_counts = st.builds(Counts, any_number, any_number, any_number, any_number)


@settings(max_examples=200, deadline=None)
@given(any_counts, any_counts, any_number, st.booleans())
def test_no_counts_whatever_break_the_judge_and_only_true_ones_pass(
    stable: Counts, candidate: Counts, share: float, retries: bool
) -> None:
    told = judge(POLICY, stable=stable, candidate=candidate, share=share, at=NOW, retries_on_stable=retries)
    if told.outcome is Outcome.PASS:
        assert 50 <= candidate.requests < math.inf
        assert 0 <= candidate.errors <= candidate.requests
        assert candidate.errors / candidate.requests < 0.2


def ticks() -> list[Increment]:
    rng = np.random.default_rng(3)
    made = []
    for share in (0.0, 0.05, 0.5, 1.0):
        for _ in range(20):
            n_s, n_c = rng.poisson(20 * (1 - share)), rng.poisson(20 * share)
            stable = Counts(int(n_s), int(rng.binomial(n_s, 0.1)), int(rng.binomial(n_s, 0.1)), 0.25)
            candidate = Counts(int(n_c), int(rng.binomial(n_c, 0.1)), int(rng.binomial(n_c, 0.1)), 0.25)
            made.append(Increment(stable, candidate, share, retries_on_stable=True, compared=3, disagreed=1))
    return made


def test_a_controller_that_was_killed_goes_on_from_the_saved_state() -> None:
    straight = resumed = begin()
    for tick in ticks():
        straight = observe(POLICY, straight, tick)
        resumed = JudgeState.from_json(json.loads(json.dumps(observe(POLICY, resumed, tick).to_json())))
    assert np.array_equal(straight.values, resumed.values)


def test_many_services_at_once_are_judged_as_each_alone() -> None:
    other = AnalysisPolicy(0.01, 0.05, 0.0, 100, 0.2, 10)
    policies, together = [POLICY, other], [begin(), begin()]
    alone = [begin(), begin()]
    for first, second in zip(ticks(), reversed(ticks()), strict=True):
        together = observe_all(policies, together, [first, second])
        alone = [observe(p, s, t) for p, s, t in zip(policies, alone, (first, second), strict=True)]
    for one, both in zip(alone, together, strict=True):
        assert one.values == pytest.approx(both.values, rel=1e-12)


BAD_POLICIES: tuple[Callable[[], AnalysisPolicy], ...] = (
    lambda: AnalysisPolicy(0.5, 0.01, 0.005, 500, 0.01, 50),
    lambda: AnalysisPolicy(0.0, 0.01, 0.005, 500, 0.01, 50),
    lambda: AnalysisPolicy(math.nan, 0.01, 0.005, 500, 0.01, 50),
    lambda: AnalysisPolicy(0.001, 1.0, 0.005, 500, 0.01, 50),
    lambda: AnalysisPolicy(0.001, 0.01, -0.1, 500, 0.01, 50),
    lambda: AnalysisPolicy(0.001, 0.01, 0.005, 0, 0.01, 50),
    lambda: AnalysisPolicy(0.001, 0.01, 0.005, 500, 0.0, 50),
    lambda: AnalysisPolicy(0.001, 0.01, 0.005, 500, 0.01, 0),
    lambda: AnalysisPolicy(0.001, 0.01, 0.005, 500, 0.01, 50, max_disagreement=2),
)


@pytest.mark.parametrize("policy", BAD_POLICIES)
def test_a_policy_no_judge_can_work_with_is_refused(policy: Callable[[], AnalysisPolicy]) -> None:
    with pytest.raises(Permanent, match="no judge can work with"):
        policy()


def test_extreme_but_possible_policies_still_judge() -> None:
    for policy in (
        AnalysisPolicy(0.49, 0.999, 0.99, 1e6, 0.999, 1, max_disagreement=0.99),
        AnalysisPolicy(1e-12, 1e-9, 0.0, 0.001, 1e-9, 10**9, max_disagreement=1e-9),
    ):
        state = begin()
        for tick in ticks():
            state = observe(policy, state, tick)
        assert np.isfinite(state.values).all()
        assert verdict(policy, state, at=NOW).outcome in Outcome
