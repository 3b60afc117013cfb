"""One tick: what was seen changes what is believed. Many services are done in one go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from serving.control.analysis.evidence import (
    LEVELS,
    LOST_LEVELS,
    PARTS,
    PRIOR_REQUESTS,
    TWO_ARM,
    USUAL_RATE,
    Array,
    TestLimits,
    fixed_log_factors,
    grown,
    levels_over,
    limits_of,
    opening,
    repeat_log_factors,
    reserve,
    two_arm_log_factors,
)
from serving.control.analysis.policy import AnalysisPolicy
from serving.control.analysis.state import (
    ARM,
    ERRORS,
    MALFORMED,
    REFUSED,
    REQUESTS,
    SIZE,
    SLOW,
    UNINFORMATIVE,
    Increment,
    JudgeMemory,
    JudgeState,
)

RECORD_DOUBT = float(np.log(20.0))  # stable's record is taken at its 95 % upper bound
LOST_SHARE = 0.5  # finishing less than half of its share is traffic lost
WAIT_SECONDS = 5.0  # at most, for stable's part of a comparison
WAIT_PART = 0.6  # of stable's expected part is enough
SLOW_TESTS = [2, 4]
BY_RECORD = [0, 3]  # of the two-arm tests: alone, the candidate is held to what stable did before
SLOW_NATS_A_SECOND = 1.0  # a pause makes all that is in flight slow at once: one event, not many


@dataclass(frozen=True, slots=True)
class Ticks:
    """Increments of many services as arrays: counts are (services, 6), the rest (services,)."""

    stable: Array
    candidate: Array
    compared: Array  # (services, 2)
    share: Array
    step: Array
    retries: NDArray[np.bool_]
    seconds: Array
    settled: NDArray[np.bool_] = field(default_factory=lambda: np.ones(1, dtype=bool))

    @classmethod
    def of(cls, ticks: Sequence[Increment]) -> Ticks:
        table = np.array([_row(tick) for tick in ticks], dtype=float)
        stable, candidate, compared, rest = np.split(table, np.cumsum([len(ARM), len(ARM), 2]), axis=1)
        share, step, retries, seconds, settled = rest.T
        return cls(stable, candidate, compared, share, step, retries > 0, seconds, settled > 0)


def _row(tick: Increment) -> tuple[float, ...]:
    return (
        *(getattr(tick.stable, name) for name in ARM),
        *(getattr(tick.candidate, name) for name in ARM),
        *(tick.compared, tick.disagreed, tick.share, tick.step, tick.retries_on_stable),
        tick.candidate.window_seconds,
        tick.settled,
    )


def begin() -> JudgeState:
    """What a judge believes before the first tick."""
    return JudgeState(blank(1).rows[0])


def blank(services: int) -> JudgeMemory:
    """`begin` for many services."""
    memory = JudgeMemory(np.zeros((services, SIZE)))
    memory["wealth"] = opening()
    return memory


def observe(policy: AnalysisPolicy, state: JudgeState, tick: Increment) -> JudgeState:
    """The state after one tick. Impossible numbers change nothing but `problem`."""
    return observe_all([policy], [state], [tick])[0]


def observe_all(
    policies: Sequence[AnalysisPolicy], states: Sequence[JudgeState], ticks: Sequence[Increment]
) -> list[JudgeState]:
    """`observe` for many services at once; 500 take a few milliseconds."""
    after = [replace(state, problem=tick.problem) for state, tick in zip(states, ticks, strict=True)]
    sound = [i for i, state in enumerate(after) if not state.problem]
    if sound:
        memory = JudgeMemory(np.stack([after[i].values for i in sound]))
        limits = TestLimits.stack([limits_of(policies[i]) for i in sound])
        take(limits, memory, Ticks.of([ticks[i] for i in sound]))
        for i, values in zip(sound, memory.rows, strict=True):
            after[i] = JudgeState(values)
    return after


def take(limits: TestLimits, memory: JudgeMemory, ticks: Ticks) -> None:
    """Change `memory` by one tick. Every bet depends on earlier ticks and on request counts only."""
    own, repeats = _part_repeats(memory, ticks)
    left = reserve(memory["seconds"] + ticks.seconds)
    placed = (reserve(memory["seconds"]) - left)[:, None, None] * PARTS
    wealth = grown(memory["wealth"] + placed, _log_factors(limits, memory, ticks, own, repeats))
    memory["wealth"] = wealth
    memory["peak"] = np.maximum(memory["peak"], shown(wealth.sum(axis=-1) + left[:, None]))
    _count(memory, ticks)


def shown(evidence: Array) -> Array:
    """The e-values, per test. A ceiling's counts only as far as stable is shown to be better."""
    for ceiling, over_stable in ((3, 1), (4, 2)):
        evidence[..., ceiling] = np.minimum(evidence[..., ceiling], evidence[..., over_stable])
    return evidence


def _count(memory: JudgeMemory, ticks: Ticks) -> None:
    memory["step_candidate"] *= (memory["step"] == ticks.step)[:, None]
    memory["step_candidate"] += ticks.candidate
    for name in ("stable", "candidate", "compared", "seconds"):
        memory[name] += getattr(ticks, name)
    memory["ticks"] += 1
    memory["step"], memory["share"] = ticks.step, ticks.share


def _part_repeats(memory: JudgeMemory, ticks: Ticks) -> tuple[Array, Array]:
    """Part stable's counts into its own traffic and (number, failures) of repeats for the candidate.

    Unparted, stable's count would grow with the candidate's errors, and the arms' sizes would no longer be
    independent of their outcomes. Whose failures stable's are cannot be told, so both parts get them all,
    which can only speak for the candidate.
    """
    owed = memory["owed"] + np.where(ticks.retries, _repeated(ticks.candidate), 0)
    number = np.minimum(owed, ticks.stable[:, 0])
    memory["owed"] = owed - number
    own = np.minimum(ticks.stable, (ticks.stable[:, 0] - number)[:, None])
    repeats = np.stack([number, np.minimum(_unanswered(ticks.stable), number)], axis=1)
    repeats *= (ticks.share >= 1)[:, None]
    memory["repeats"] += repeats
    return own, repeats


def _log_factors(limits: TestLimits, memory: JudgeMemory, ticks: Ticks, own: Array, repeats: Array) -> Array:
    """Growth of every bet in this tick: (services, tests, levels)."""
    alone, candidate = ticks.share >= 1, ticks.candidate
    ceilings = fixed_log_factors(
        (candidate[:, [REQUESTS, REQUESTS], None], candidate[:, [ERRORS, SLOW], None]),
        limits.fixed[:, :2, None],
        limits.levels[:, :2],
    )
    disagreement = fixed_log_factors(
        (ticks.compared[:, :1], ticks.compared[:, 1:]), limits.fixed[:, 2:], limits.levels[:, 2]
    )
    repeated = repeat_log_factors(
        (candidate[:, :1], _repeated(candidate)[:, None]), (repeats[:, :1], repeats[:, 1:]), limits.repeats
    )
    traffic = _of_traffic(own[:, 0], candidate[:, 0], ticks.share)
    against_stable = _against_stable(limits, memory, ticks, own)
    factors = np.concatenate(
        [
            against_stable[:, :-1],
            ceilings,
            disagreement[:, None],
            np.where(ticks.settled[:, None], traffic, 0.0)[:, None],
            np.where(alone[:, None], repeated, 0.0)[:, None],
            against_stable[:, -1:],
        ],
        axis=1,
    )
    most = SLOW_NATS_A_SECOND * ticks.seconds[:, None, None]
    factors[:, SLOW_TESTS] = np.minimum(factors[:, SLOW_TESTS], most)
    return factors


def _against_stable(limits: TestLimits, memory: JudgeMemory, ticks: Ticks, own: Array) -> Array:
    """The two-arm tests; where the candidate has all traffic, against stable's record and the limits."""
    alone = ticks.share >= 1
    stable, candidate = _due(memory, ticks, own)
    candidate = np.where(alone[:, None], ticks.candidate, candidate)
    factors = np.zeros((len(alone), TWO_ARM, LEVELS))
    busy = candidate[:, 0] > 0
    if busy.any():
        factors[busy] = _comparison(
            limits.of(busy), memory["stable"][busy], stable[busy], candidate[busy], alone[busy]
        )
    return factors


def _comparison(
    limits: TestLimits, record: Array, stable: Array, candidate: Array, alone: NDArray[np.bool_]
) -> Array:
    recorded = _bad_of_stable(record)
    usual = (recorded + USUAL_RATE * PRIOR_REQUESTS) / (record[:, :1] + PRIOR_REQUESTS)
    limit = np.broadcast_to(limits.alone, (len(record), TWO_ARM)).copy()
    for test in BY_RECORD:
        most = _at_most(record[:, REQUESTS], recorded[:, test])
        limit[:, test] = np.minimum(most + limits.tolerance[:, test], 1)
    edge = np.where(alone[:, None], limit, np.minimum(usual + limits.tolerance, 1))
    return two_arm_log_factors(
        (stable[:, :1, None], _bad_of_stable(stable)[..., None]),
        (candidate[:, :1, None], _bad_of_candidate(candidate, alone)[..., None]),
        usual=usual[..., None],
        tolerance=limits.tolerance[..., None],
        levels=levels_over(edge),
        alone=alone[:, None, None],
        limit=limit[..., None],
    )


def _bad_of_stable(counts: Array) -> Array:
    """What each two-arm test counts of stable: errors, errors, slow answers, and all that was not answered.

    What stable fails or calls malformed is no harm of a candidate that refuses it.
    """
    return np.stack([counts[:, ERRORS], counts[:, ERRORS], counts[:, SLOW], _unanswered(counts)], axis=1)


def _bad_of_candidate(counts: Array, alone: NDArray[np.bool_]) -> Array:
    """The same of the candidate: errors, errors, slow answers, and refusals.

    Beside stable every 4xx is one: traffic is split at random, so malformed requests meet both arms alike,
    and a surplus is the candidate's doing. Alone nobody knows whose doing those are. What a pod has no room
    or time for depends on how much it is sent, so the arm with the larger share has more of it.
    """
    refused = counts[:, REFUSED] + np.where(alone, 0, counts[:, MALFORMED] - counts[:, UNINFORMATIVE])
    return np.stack([counts[:, ERRORS], counts[:, ERRORS], counts[:, SLOW], refused], axis=1)


def _unanswered(counts: Array) -> Array:
    every = counts[:, ERRORS] + counts[:, REFUSED] + counts[:, MALFORMED]
    return np.asarray(np.minimum(every, counts[:, REQUESTS]))


def _repeated(candidate: Array) -> Array:
    """What the gateway asks stable again."""
    return np.asarray(candidate[:, ERRORS] + candidate[:, REFUSED])


def _due(memory: JudgeMemory, ticks: Ticks, own: Array) -> tuple[Array, Array]:
    """The counts to compare now. They wait until stable has about its part of them, but not for long.

    A lone candidate request compared with nothing says nothing, and at ten requests a second with a
    share of 1 % most ticks are like that. Waiting depends on request counts and time, not on outcomes.
    """
    alone = ticks.share >= 1
    stable = memory["waiting_stable"] + np.where(alone[:, None], 0, own)
    candidate = memory["waiting_candidate"] + np.where(alone[:, None], 0, ticks.candidate)
    seconds = np.where(candidate[:, 0] > 0, memory["waiting_seconds"] + ticks.seconds, 0)
    expected = candidate[:, 0] * (1 - ticks.share) / np.maximum(ticks.share, 1e-9)
    enough = (stable[:, 0] >= WAIT_PART * expected) | (seconds > WAIT_SECONDS)
    due = ((candidate[:, 0] > 0) & (stable[:, 0] > 0) & enough)[:, None]
    memory["waiting_stable"], memory["waiting_candidate"] = stable * ~due, candidate * ~due
    memory["waiting_seconds"] = seconds * ~due[:, 0]
    return stable * due, candidate * due


def _of_traffic(stable: Array, candidate: Array, share: Array) -> Array:
    """Where both arms have a share: whether the candidate finishes at least half of its own."""
    floor = np.clip(share * LOST_SHARE, 1e-9, 0.5)[:, None]
    factors = fixed_log_factors(
        ((stable + candidate)[:, None], candidate[:, None]), floor, floor * LOST_LEVELS
    )
    return np.where(((share > 0) & (share < 1))[:, None], factors, 0.0)


def _at_most(requests: Array, errors: Array) -> Array:
    """Stable's error rate at most, from its record: Chernoff's bound at 95 %; 1 without a record."""
    most = errors + RECORD_DOUBT + np.sqrt(RECORD_DOUBT * (RECORD_DOUBT + 2 * errors))
    return np.asarray(np.minimum(most / np.maximum(requests, 1), 1.0))
