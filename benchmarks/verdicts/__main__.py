"""`python -m benchmarks.verdicts`: how often judges are wrong, and how late they are right.

Three tables: false rollbacks of healthy releases, exposure until bad ones are taken back, and our exposure
beside the least any test could do with (Wald). Ends with one line of JSON; exits 1 if a claim fails.
What is drawn depends on the seed alone, and not on `--processes`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np

from benchmarks.verdicts.judges import Argo, Flagger, Judge, Kayenta, Ours
from benchmarks.verdicts.play import Outcome, play
from benchmarks.verdicts.streams import Scenario
from benchmarks.verdicts.wald import expected_of_two_arms, expected_sample_number, fewest_requests
from serving.control.analysis import AnalysisPolicy

DEFAULT = AnalysisPolicy(0.001, 0.01, 0.005, 500, 0.01, 50)
NO_TOLERANCE = AnalysisPolicy(0.001, 0.01, 0.0, 500, 0.01, 50)
BAD = (0.01, 0.02, 0.05, 0.2, 1.0)
MISS = 0.01  # of Wald's tests
HOUR = 3600.0
KNOWN_SHARE = 0.01  # where stable's requests of the same time tell the base rate nearly as if it were known
OTHERS = ("Argo Rollouts", "Flagger", "Kayenta")

OURS, OURS_EXACT = "Slipway", "Slipway, no tolerance"

HEALTHY = tuple(
    Scenario(rate, share, shape)
    for shape, (rate, share) in product(
        ("constant", "bursty", "drifting"), ((10, 0.05), (50, 0.01), (50, 0.5), (500, 0.1), (5000, 0.01))
    )
)
OVERLOADED = tuple(Scenario(rate, share, "overloaded") for rate, share in ((10, 0.05), (50, 0.5), (500, 0.1)))
# Clients that send both arms what neither can answer.
REFUSED = tuple(Scenario(rate, share, "garbage") for rate, share in ((10, 0.05), (50, 0.5), (500, 0.1)))
HARMFUL = tuple(
    Scenario(rate, share, shape, candidate=bad)
    for bad, (rate, share, shape) in product(
        BAD,
        (
            (10, 0.05, "constant"),
            (50, 0.05, "constant"),
            (100, 0.5, "drifting"),
            (500, 0.1, "bursty"),
            (5000, 0.01, "constant"),
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Bound:
    """Our median exposure beside Wald's numbers, for one rate of the candidate and one share."""

    policy: str
    bad: float
    share: float
    median: float
    p95: float
    wald: float
    wald_two_arms: float

    @property
    def ratio(self) -> float:
        return self.median / self.wald

    @property
    def ratio_two_arms(self) -> float:
        return self.median / self.wald_two_arms

    @property
    def is_near(self) -> bool:
        """At most 1.5 times what any test needs that does not know the base rate, in whole requests."""
        return self.median <= math.ceil(1.5 * self.wald_two_arms)

    @property
    def is_near_known(self) -> bool:
        """The same for tests that know the base rate beforehand."""
        return self.median <= math.ceil(1.5 * self.wald)


class Work:
    """Plays scenarios, in as many processes as wanted; each has a seed of its own."""

    def __init__(self, pool: ProcessPoolExecutor | None, seed: int) -> None:
        self._pool = pool
        self._seeds = np.random.SeedSequence(seed)

    def do(self, play_one: Callable[..., Any], every: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """`play_one(*arguments, rng)` for every entry, in their order."""
        seeds = self._seeds.spawn(len(every))
        jobs = [(play_one, arguments, seed) for arguments, seed in zip(every, seeds, strict=True)]
        return map(_job, jobs) if self._pool is None else self._pool.map(_job, jobs)


def _job(job: tuple[Callable[..., Any], tuple[Any, ...], np.random.SeedSequence]) -> Any:
    play_one, arguments, seed = job
    return play_one(*arguments, np.random.default_rng(seed))


def main() -> int:
    options = _options()
    began = time.monotonic()
    pool = ProcessPoolExecutor(options.processes) if options.processes > 1 else None
    work = Work(pool, options.seed)
    healthy = _healthy(options.releases, work)
    harmful = _harmful(options.bad_releases, work)
    bounds = list(_bounds(options.bound_releases, work))
    if pool:
        pool.shutdown()
    result = _result(healthy, harmful, bounds, time.monotonic() - began)
    print(json.dumps(result))
    return 0 if all(result["claims"].values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench verdicts", description=__doc__)
    parser.add_argument("--releases", type=int, default=10_005, help="healthy releases of an hour each")
    parser.add_argument("--bad-releases", type=int, default=300, help="per harmful scenario")
    parser.add_argument("--bound-releases", type=int, default=1000, help="per row of the third table")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20261121)
    return parser.parse_args()


def _judges(scenario: Scenario, releases: int) -> list[Judge]:
    """Ours with its default policy, and without tolerance, which is harder to keep from false alarms."""
    return [
        Ours(scenario, releases, DEFAULT),
        Ours(scenario, releases, NO_TOLERANCE, OURS_EXACT),
        Argo(releases),
        Flagger(releases),
        Kayenta(releases),
    ]


def _healthy(releases: int, work: Work) -> dict[str, int]:
    """False rollbacks per judge. Overload and garbage are for ours alone: the others' documented rules know
    neither latency nor 4xx."""
    each = math.ceil(releases / len(HEALTHY))
    total = dict.fromkeys((OURS, OURS_EXACT, *OTHERS), 0)
    print(f"\nFalse rollbacks among {each} healthy releases of an hour in each scenario")
    _row("scenario", *total)
    every = [(scenario, each) for scenario in (*HEALTHY, *OVERLOADED, *REFUSED)]
    for (scenario, _), seen in zip(every, work.do(_play_healthy, every), strict=True):
        shown = total if scenario in HEALTHY else (OURS, OURS_EXACT)
        total = {name: total[name] + (seen[name] if name in shown else 0) for name in total}
        _row(str(scenario), *(str(seen[name]) for name in shown))
    all_releases = each * len(every)
    _row(f"all {all_releases}", *(str(count) for count in total.values()))
    return {**total, "releases": all_releases, "releases_of_others": each * len(HEALTHY)}


def _play_healthy(scenario: Scenario, releases: int, rng: np.random.Generator) -> dict[str, int]:
    judges = _judges(scenario, releases)
    seen = play(scenario, judges if scenario in HEALTHY else judges[:2], releases, seconds=HOUR, rng=rng)
    return {name: outcome.taken_back for name, outcome in seen.items()}


@dataclass(frozen=True, slots=True)
class Harm:
    """What the judges did in one harmful scenario; `least` is Wald's number for two arms and our policy."""

    scenario: Scenario
    seen: dict[str, Outcome]
    least: float

    def times(self, other: str) -> float:
        """How many times more candidate requests the other judge let through than ours, by the medians."""
        ours, others = self.seen[OURS].exposed(0.5), self.seen[other].exposed(0.5)
        return others / ours if math.isfinite(others) else math.inf

    def is_possible(self, other: str) -> bool:
        """Whether ten times less than the other is at least 1.5 times what any test needs."""
        return self.seen[other].exposed(0.5) >= 15 * self.least


def _harmful(releases: int, work: Work) -> list[Harm]:
    print(
        f"\nHarmful releases, {releases} per scenario, all bad from the start: candidate requests until taken"
    )
    print("back (median / 95th percentile), seconds (median), and how many of them were missed for an hour")
    _row("scenario", OURS, OURS_EXACT, *OTHERS)
    found = []
    every = [(scenario, releases) for scenario in HARMFUL]
    for scenario, seen in zip(HARMFUL, work.do(_play_harmful, every), strict=True):
        _row(str(scenario), *(_cell(outcome, releases) for outcome in seen.values()))
        found.append(Harm(scenario, seen, _least(scenario, DEFAULT)))
    return found


def _play_harmful(scenario: Scenario, releases: int, rng: np.random.Generator) -> dict[str, Outcome]:
    return play(scenario, _judges(scenario, releases), releases, seconds=HOUR, rng=rng)


def _least(scenario: Scenario, policy: AnalysisPolicy) -> float:
    return expected_of_two_arms(
        scenario.typical,
        min(scenario.typical + (scenario.candidate or scenario.usual) - scenario.usual, 1.0),
        share=scenario.share,
        tolerance=policy.error_tolerance,
        alpha=policy.alpha,
        miss=MISS,
    )


def _cell(outcome: Outcome, releases: int) -> str:
    missed = releases - outcome.taken_back
    if outcome.taken_back <= releases / 2:
        return f"missed {missed}"
    median, late = _whole(outcome.exposed(0.5)), _whole(outcome.exposed(0.95))
    return f"{median} / {late}, {outcome.waited(0.5):.4g} s" + (f", missed {missed}" if missed else "")


def _bounds(releases: int, work: Work) -> Iterator[Bound]:
    print("\nOur median exposure beside Wald's expected sample number, alpha 0.1 %, power 99 %, base 0.1 %.")
    print(
        "  Wald knows the base rate beforehand; 'two arms' learns it from stable's requests of the same time."
    )
    _row("tolerance, candidate fails, share", "median", "p95", "Wald", "times", "two arms", "times")
    every = [
        (name, policy, bad, share, releases)
        for (name, policy), bad, share in product(
            (("none", NO_TOLERANCE), ("0.5 %", DEFAULT)), BAD, (0.01, 0.05, 0.1, 0.5)
        )
        # 1 % against an edge of 0.6 % takes thousands of requests for any test
        if policy is NO_TOLERANCE or bad > 0.001 + policy.error_tolerance + 0.005
    ]
    for (name, _, bad, share, _), bound in zip(every, work.do(_bound, every), strict=True):
        label = f"{name}, {bad:.0%}, {share:.0%}"
        numbers = (
            bound.median,
            bound.p95,
            bound.wald,
            bound.ratio,
            bound.wald_two_arms,
            bound.ratio_two_arms,
        )
        _row(label, *(f"{number:.4g}" for number in numbers))
        yield bound
    for share in (0.01, 0.05, 0.1, 0.5):
        least = fewest_requests(share=share, alpha=DEFAULT.alpha)
        print(
            f"  At a share of {share:.0%} and 100 % errors no two-arm test can have a median under {least}."
        )


def _bound(
    name: str, policy: AnalysisPolicy, bad: float, share: float, releases: int, rng: np.random.Generator
) -> Bound:
    # so few candidate requests to a look that looks are no coarser than requests
    rate = (1 if bad >= 0.2 else 4) / share
    scenario = Scenario(rate, share, candidate=bad)
    seen = play(scenario, [Ours(scenario, releases, policy)], releases, seconds=4 * HOUR, rng=rng)[OURS]
    alpha = policy.alpha
    return Bound(
        policy=name,
        bad=bad,
        share=share,
        median=seen.exposed(0.5),
        p95=seen.exposed(0.95),
        wald=expected_sample_number(0.001 + policy.error_tolerance, bad, alpha=alpha, miss=MISS),
        wald_two_arms=_least(scenario, policy),
    )


def _result(
    healthy: dict[str, int], harmful: Sequence[Harm], bounds: Sequence[Bound], seconds: float
) -> dict[str, Any]:
    pairs = [(harm, name) for harm in harmful for name in OTHERS]
    claims = {
        "false rollbacks at most alpha, also under drift and overload": (
            max(healthy[OURS], healthy[OURS_EXACT]) <= DEFAULT.alpha * healthy["releases"]
        ),
        "no other judge has fewer false rollbacks": all(healthy[OURS] <= healthy[o] for o in OTHERS),
        "median exposure at most 1.5 times the two-arm bound": all(bound.is_near for bound in bounds),
        "at a share of 1 % also 1.5 times Wald's number with a known base": all(
            bound.is_near_known for bound in bounds if bound.share == KNOWN_SHARE
        ),
        "10 times less exposure than each other judge, where any test could": all(
            harm.times(name) >= 10 for harm, name in pairs if harm.is_possible(name)
        ),
    }
    print()
    for claim, holds in claims.items():
        print(f"{'yes' if holds else 'NO '}  {claim}")
    known = sum(bound.is_near_known for bound in bounds)
    print(f"     1.5 times Wald's number with a known base is met in {known} of {len(bounds)} rows")
    for harm, name in pairs:
        if not harm.is_possible(name):
            print(f"     {harm.times(name):.3g} times {name}'s, and no test could do 10: {harm.scenario}")
    return {
        "benchmark": "verdicts",
        "seconds": round(seconds, 1),
        "claims": claims,
        "false_rollbacks": healthy,
        "harmful": [
            {"scenario": str(harm.scenario), **{name: _numbers(seen) for name, seen in harm.seen.items()}}
            for harm in harmful
        ],
        "bounds": [asdict(bound) for bound in bounds],
    }


def _numbers(outcome: Outcome) -> dict[str, float | int | None]:
    return {
        "median_exposure": _finite(outcome.exposed(0.5)),
        "p95_exposure": _finite(outcome.exposed(0.95)),
        "median_seconds": _finite(outcome.waited(0.5)),
        "p95_seconds": _finite(outcome.waited(0.95)),
        "missed": len(outcome.seconds) - outcome.taken_back,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _whole(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "never"


def _row(label: str, *cells: str) -> None:
    width = 27 if len(cells) < 6 else 10
    print(f"{label:44}" + "".join(f"{cell:>{width}}" for cell in cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())
