"""What the demo claims, each checked against evidence. A claim that fails makes the demo fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from demo.acts import Scenario
from demo.facts import AUC, CHAMPION, Release
from demo.traffic_log import TrafficLog, failures_by_kind

# A sender that stood still proves nothing; a busy machine may hold it up for a moment.
LONGEST_PAUSE_SECONDS = 2.0
LEAST_SHARE_OF_RATE = 0.9
# Envoy follows a changed file within milliseconds; answers on their way then still count.
AFTERMATH_SECONDS = 1.0
# Requests under way when the controller counted for the last time.
UNCOUNTED_REQUESTS = 5
UNCOUNTED_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Claim:
    """`says` what is claimed, `found` the numbers it was checked on."""

    says: str
    holds: bool
    found: str


def check_claims(
    scenario: Scenario, releases: Sequence[Release], champion: int | None, log: TrafficLog
) -> list[Claim]:
    """Every claim of the scenario. `champion`: the version with that alias at the end."""
    found = [_ended_as_told(scenario, releases), _champion(scenario, champion)]
    told = {act.version: act.ending for act in scenario.acts}
    for release in releases:
        found += _CLAIMS_BY_ENDING[told[release.version]](release, log, scenario)
    return [*found, *_of_traffic(releases, log, scenario.rate)]


def _ended_as_told(scenario: Scenario, releases: Sequence[Release]) -> Claim:
    told = {act.version: act.ending for act in scenario.acts}
    ended = {release.version: release.ending for release in releases}
    words = ", ".join(f"v{version} {ending.replace('_', ' ')}" for version, ending in ended.items())
    return Claim("every release ended as it should", told == ended, words)


def _champion(scenario: Scenario, champion: int | None) -> Claim:
    expected = [act.version for act in scenario.acts if act.ending == "promoted"][-1]
    found = f"the alias is on v{champion}" if champion else "there is no such alias"
    return Claim(f"v{expected} is the champion in MLflow", champion == expected, found)


def _of_promoted(release: Release, log: TrafficLog, _: Scenario) -> Iterator[Claim]:
    served = release.served
    name = f"v{release.version}"
    passed = served is not None and served.passed
    count = len(served.checks) if served else 0
    yield Claim(
        f"{name} serves a candidate that passed every gate", passed, f"{count} checks of {release.chosen}"
    )
    yield _is_fastest(release)
    if served is not None and (against := served.check(CHAMPION)):
        yield Claim(f"{name} was compared with the version before it", against.passed, against.detail)
    answered = len(log.answered_by(release.version))
    yield Claim(f"{name} answered users", answered > 0, f"{answered:,} answers")


def _is_fastest(release: Release) -> Claim:
    passed = {v.precision: (v.ratio, v.interval) for v in release.variants if v.ratio and v.passed}
    mine = passed.get(release.chosen or "")
    holds = mine is not None and not any(_is_surely_faster(other, mine) for other in passed.values())
    measured = ", ".join(f"{precision} {ratio:.2f}" for precision, (ratio, _) in passed.items())
    says = f"v{release.version} serves the precision measured as fastest of those that passed"
    return Claim(says, holds, f"{release.chosen} of: {measured} (p50 over fp32's)")


Ratio = tuple[float, tuple[float, float] | None]


def _is_surely_faster(one: Ratio, other: Ratio) -> bool:
    """Not only by chance: what was measured leaves no doubt."""
    (ratio, interval), (of_other, interval_of_other) = one, other
    return (interval or (ratio, ratio))[1] < (interval_of_other or (of_other, of_other))[0]


def _of_blocked(release: Release, log: TrafficLog, _: Scenario) -> Iterator[Claim]:
    name = f"v{release.version}"
    servable = [variant for variant in release.variants if variant.is_servable]
    missed = [check for variant in servable if (check := variant.check(CHAMPION)) and not check.passed]
    worst = min((check.limit - check.observed for check in missed), default=0.0)
    yield Claim(
        f"{name} was blocked by the accuracy gate, whatever its precision",
        bool(servable) and len(missed) == len(servable),
        f"{len(missed)} of {len(servable)} candidates missed the limit, by {worst:.4f} or more",
    )
    answered = sum(entry.version == release.version for entry in log.entries)
    never = not release.happenings and release.exposure is None and answered == 0
    yield Claim(
        f"{name} never got a request", never, f"{answered} answers, {len(release.happenings)} rollout events"
    )


def _of_rolled_back(release: Release, log: TrafficLog, scenario: Scenario) -> Iterator[Claim]:
    name = f"v{release.version}"
    served, taken = release.served, release.rollback
    passed = served is not None and served.passed
    auc = served.check(AUC) if served else None
    found = f"{len(served.checks)} checks, AUC {auc.value:.4f}" if served and auc and auc.value else "none"
    yield Claim(f"{name} passed every gate offline", passed, found)
    seconds, longest = taken.seconds if taken else None, scenario.longest_to_zero_seconds
    yield Claim(
        f"{name} had no traffic {longest:.0f} s after its first failed answer",
        seconds is not None and seconds <= longest,
        "no failed answer was counted" if seconds is None else f"at most {seconds:.1f} s",
    )
    if taken:
        limit = taken.weight_zero_at + AFTERMATH_SECONDS
        late = sum(entry.sent_at > limit for entry in log.entries if entry.version == release.version)
        yield Claim(f"{name} stayed out", late == 0, f"{late} answers to requests sent later")
    yield _counts_agree(release, log)


def _counts_agree(release: Release, log: TrafficLog) -> Claim:
    """The controller counts in Envoy, the clients count their own: two ways to the same number."""
    says = f"controller and clients agree on what v{release.version} answered"
    if release.exposure is None:
        return Claim(says, False, "the controller counted nothing")
    counted = release.exposure.requests - release.exposure.errors
    answered = len(log.answered_by(release.version))
    tolerance = max(UNCOUNTED_REQUESTS, UNCOUNTED_SHARE * counted)
    return Claim(
        says, abs(counted - answered) <= tolerance, f"{counted} counted in Envoy, {answered} by clients"
    )


def _of_traffic(releases: Sequence[Release], log: TrafficLog, rate: float) -> Iterator[Claim]:
    failed = log.failed
    kinds = ", ".join(f"{count} {kind}" for kind, count in failures_by_kind(failed).items())
    yield Claim(
        "no request failed", not failed and log.sent > 0, f"{len(failed)} of {log.sent:,} {kinds}".strip()
    )
    lost = log.sent - len(log.entries)
    yield Claim(
        "every request is accounted for", lost == 0, f"{log.sent:,} sent, {len(log.entries):,} in the log"
    )
    seconds = log.seconds()
    achieved, pause = log.sent / seconds if seconds else 0.0, log.longest_pause_seconds()
    yield Claim(
        "the traffic was steady all the time",
        achieved >= LEAST_SHARE_OF_RATE * rate and pause <= LONGEST_PAUSE_SECONDS,
        f"{achieved:.0f} requests a second for {seconds:.0f} s, longest pause {pause:.2f} s",
    )
    known = {release.version for release in releases}
    strangers = {entry.version for entry in log.entries if not entry.failed} - known
    versions = ", ".join(f"v{version}" for version in sorted(strangers)) or "none"
    yield Claim("every answer says which version gave it", not strangers, f"of other origin: {versions}")


_CLAIMS_BY_ENDING = {"promoted": _of_promoted, "blocked": _of_blocked, "rolled_back": _of_rolled_back}
