"""One tick: what was seen changes what is believed. Many services are done in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np

from serving.analysis.evidence import (
    LOST_SHARE,
    PRIOR_REQUESTS,
    TWO_ARM,
    USUAL_RATE,
    Limits,
    fixed_log_factors,
    limits_of,
    log_totals,
    opening,
    placed,
    repeat_log_factors,
    two_arm_log_factors,
)
from serving.analysis.policy import AnalysisPolicy
from serving.analysis.state import Array, Increment, JudgeState

RECORD_DOUBT = np.log(20.0)  # stable's record is taken at its 95 % upper bound


def begin() -> JudgeState:
    """What a judge believes before the first tick."""
    wealth, reserve = opening()
    return JudgeState(log_wealth=wealth, log_reserve=reserve, log_peak=np.zeros(len(wealth)))


def observe(policy: AnalysisPolicy, state: JudgeState, tick: Increment) -> JudgeState:
    """The state after one tick. Impossible numbers change nothing but `problem`."""
    return observe_all([policy], [state], [tick])[0]


def observe_all(
    policies: Sequence[AnalysisPolicy], states: Sequence[JudgeState], ticks: Sequence[Increment]
) -> list[JudgeState]:
    """`observe` for many services at once (500 take about as long as 10 one by one)."""
    after = [replace(state, problem=tick.problem) for state, tick in zip(states, ticks, strict=True)]
    sound = [i for i, state in enumerate(after) if not state.problem]
    if sound:
        seen = [_Seen.of(after[i], ticks[i]) for i in sound]
        judged = _judged([limits_of(policies[i]) for i in sound], [after[i] for i in sound], seen)
        for i, state in zip(sound, judged, strict=True):
            after[i] = state
    return after


@dataclass(frozen=True, slots=True)
class _Seen:
    """A tick, with stable's requests parted into its own traffic and repeats of the candidate's failures.

    Unparted, stable's count would grow with the candidate's errors, and the arms' sizes would no longer be
    independent of their outcomes. Whose failures stable's are cannot be told, so both parts get them all,
    which can only speak for the candidate. After promotion all of stable's requests are repeats.
    """

    tick: Increment
    own: int
    repeats: int
    owed: int

    @classmethod
    def of(cls, state: JudgeState, tick: Increment) -> _Seen:
        owed = state.owed + (tick.candidate.errors if tick.retries_on_stable else 0)
        repeats = min(owed, tick.stable.requests)
        return cls(tick, tick.stable.requests - repeats, repeats, owed - repeats)

    @property
    def alone(self) -> bool:
        """Whether the candidate has all traffic, so that there is no stable traffic to compare with."""
        return self.tick.share >= 1

    def rows(self) -> tuple[tuple[int, ...], ...]:
        """(requests, errors, slow) of stable's own, of the candidate, and (requests, hits) of the rest."""
        stable, candidate, own = self.tick.stable, self.tick.candidate, self.own
        repeats = self.repeats if self.alone else 0
        return (
            (own, min(stable.errors, own), min(stable.slow, own)),
            (candidate.requests, candidate.errors, candidate.slow),
            (self.tick.compared, self.tick.disagreed, 0),
            (repeats, min(stable.errors, repeats), 0),
        )


def _judged(limits: list[Limits], states: list[JudgeState], seen: list[_Seen]) -> list[JudgeState]:
    factors = _log_factors(limits, states, seen)
    seconds = np.array([s.tick.candidate.window_seconds for s in seen])
    elapsed = np.array([state.seconds for state in states])
    bet, reserve = placed(np.array([state.log_reserve for state in states]), seconds, elapsed)
    wealth = np.logaddexp(np.array([state.log_wealth for state in states]), bet[:, None, None]) + factors
    peaks = np.maximum(np.array([state.log_peak for state in states]), shown(wealth, reserve))
    return [
        replace(
            state.with_tick(s.tick, owed=s.owed, repeats=s.rows()[3]),
            log_wealth=wealth[i],
            log_reserve=float(reserve[i]),
            log_peak=peaks[i],
        )
        for i, (state, s) in enumerate(zip(states, seen, strict=True))
    ]


def shown(log_wealth: Array, log_reserve: Array) -> Array:
    """Evidence per test, in nats. A ceiling's counts only as far as stable is shown to be better."""
    totals = log_totals(log_wealth, log_reserve)
    for ceiling, over_stable in ((3, 1), (4, 2)):
        totals[..., ceiling] = np.minimum(totals[..., ceiling], totals[..., over_stable])
    return totals


def _log_factors(limits: list[Limits], states: list[JudgeState], seen: list[_Seen]) -> Array:
    """Growth of every bet in this tick: (services, tests, levels)."""
    counts = np.array([s.rows() for s in seen], dtype=float)
    stable, candidate, compared, repeats = (counts[:, i] for i in range(4))
    share = np.array([s.tick.share for s in seen])
    levels = np.array([lim.levels for lim in limits])
    return np.concatenate(
        [
            _against_stable(limits, states, stable, candidate, share, levels[:, :TWO_ARM]),
            _against_ceilings(limits, candidate, compared, levels[:, TWO_ARM:6]),
            _of_traffic(stable[:, 0], candidate[:, 0], share, levels[:, 6])[:, None],
            _of_repeats(candidate, repeats, share, levels[:, 7])[:, None],
        ],
        axis=1,
    )


def _of_repeats(candidate: Array, repeats: Array, share: Array, levels: Array) -> Array:
    """Where the candidate has all traffic: whether stable answers what the candidate could not."""
    factors = repeat_log_factors(
        (candidate[:, :1], candidate[:, 1:2]), (repeats[:, :1], repeats[:, 1:2]), levels
    )
    return np.where((share >= 1)[:, None], factors, 0.0)


def _against_stable(
    limits: list[Limits],
    states: list[JudgeState],
    stable: Array,
    candidate: Array,
    share: Array,
    levels: Array,
) -> Array:
    record = np.array([astuple(state.stable)[:3] for state in states], dtype=float)
    kind = [1, 1, 2]
    usual = (record[:, kind] + USUAL_RATE * PRIOR_REQUESTS) / (record[:, :1] + PRIOR_REQUESTS)
    tolerance = np.array([lim.tolerance for lim in limits])
    ceiling = np.array([lim.ceiling for lim in limits])
    ceiling[:, 0] = np.minimum(_at_most(record[:, 0], record[:, 1]) + tolerance[:, 0], 1)
    return two_arm_log_factors(
        (stable[:, :1, None], stable[:, kind, None]),
        (candidate[:, :1, None], candidate[:, kind, None]),
        usual=usual[..., None],
        tolerance=tolerance[..., None],
        levels=levels,
        alone=(share >= 1)[:, None, None],
        limit=ceiling[..., None],
    )


def _against_ceilings(limits: list[Limits], candidate: Array, compared: Array, levels: Array) -> Array:
    n = np.stack([candidate[:, 0], candidate[:, 0], compared[:, 0]], axis=1)
    hits = np.stack([candidate[:, 1], candidate[:, 2], compared[:, 1]], axis=1)
    edges = np.array([lim.fixed for lim in limits])
    return fixed_log_factors((n[..., None], hits[..., None]), edges[..., None], levels)


def _of_traffic(stable: Array, candidate: Array, share: Array, levels: Array) -> Array:
    """Where both arms have a share: whether the candidate finishes at least half of its own."""
    floor = np.clip(share * LOST_SHARE, 1e-9, 0.5)[:, None]
    factors = fixed_log_factors(((stable + candidate)[:, None], candidate[:, None]), floor, floor * levels)
    return np.where(((share > 0) & (share < 1))[:, None], factors, 0.0)


def _at_most(requests: Array, errors: Array) -> Array:
    """Stable's error rate at most, from its record: Chernoff's bound at 95 %; 1 without a record."""
    most = errors + RECORD_DOUBT + np.sqrt(RECORD_DOUBT * (RECORD_DOUBT + 2 * errors))
    return np.asarray(np.minimum(most / np.maximum(requests, 1), 1.0))
