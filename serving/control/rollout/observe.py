"""From the proxy's counters to what each arm did since the last look. Pure.

Counters restart with the proxy, endpoints come and go, clocks jump, and a controller may start in the middle:
what comes out never shrinks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter

from serving.control.analysis import Increment
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.rollout.record import EndpointCounts, Raw, Record
from serving.metrics.base import EndpointCounters
from serving.types import NO_COUNTS, Counts, Deployment, Endpoint, Route

# A longer gap between two looks is time nobody watched.
LONGEST_LOOK_SECONDS = 5.0

_SHARE = itemgetter(1)


@dataclass(frozen=True, slots=True)
class ObservedCounts:
    """What was seen of a release so far: cumulative counts per arm, and where the counters stood.

    `share` was in force during the last look (across a change, the smaller one); `settled` says whether all
    that finished in it began under this share or a larger one. `shares` are (uptime, share in force) of the
    looks within one time limit of a request. `seen` is what the last look was given, `least_share`
    the smallest share since the last record, and `answers` (compared, disagreed) since the start.
    `doubt`: why the last look cannot be trusted, or "". `broken` is what the proxy says of the candidate's
    answers that did not end, `unheard` how many of those are not among its errors yet, and `repeated` whether
    the gateway could repeat all that the candidate failed since the last record.
    """

    stable: Counts = NO_COUNTS
    candidate: Counts = NO_COUNTS
    raw: Raw = field(default_factory=dict)
    doubt: str = ""
    monotonic: float | None = None
    place: int = 0
    share: float = 0.0
    settled: bool = True
    shares: tuple[tuple[float, float], ...] = ()
    step_seconds: float = 0.0
    seen: tuple[Route, Mapping[Endpoint, EndpointCounters]] | None = None
    least_share: float = 1.0
    answers: tuple[int, int] = (0, 0)
    broken: Mapping[Endpoint, int] = field(default_factory=dict)
    unheard: int = 0
    repeated: bool = True

    @classmethod
    def of(cls, record: Record) -> ObservedCounts:
        """Where the controller stood when it wrote `record`."""
        return cls(
            stable=record.stable,
            candidate=record.candidate,
            raw=record.raw,
            monotonic=record.monotonic,
            place=record.place,
            share=record.share,
            settled=record.settled,
            shares=((record.monotonic, record.share),),
            step_seconds=record.step_seconds,
            answers=record.answers,
        )


def look(
    tally: ObservedCounts,
    state: RolloutState,
    route: Route,
    counters: Mapping[Endpoint, EndpointCounters],
    *,
    monotonic: float,
    answers: tuple[int, int] = (0, 0),
) -> tuple[ObservedCounts, Increment]:
    """The tally after this look, and what happened since the one before. `monotonic` is in seconds.

    `answers` are (compared, disagreed) since the look before.
    """
    seconds = _seconds_since(tally.monotonic, monotonic)
    raw, stable, candidate, now_in_force = _counted(tally, route, counters, seconds)
    shares = _lately(tally, now_in_force, monotonic, route.settings.timeout_ms / 1000)
    share = min(now_in_force, shares[-2][1])
    broken, unheard = _broken(tally, route, counters)
    told = min(unheard, candidate.errors)
    after = ObservedCounts(
        stable=tally.stable + stable,
        candidate=tally.candidate + candidate,
        raw=raw,
        doubt=_doubt(tally.raw, raw),
        monotonic=monotonic,
        place=state.place,
        share=share,
        settled=min(shares, key=_SHARE)[1] >= share,
        shares=shares,
        step_seconds=_in_step(tally, state, seconds, candidate),
        seen=(route, counters),
        least_share=min(tally.least_share, share),
        answers=(tally.answers[0] + answers[0], tally.answers[1] + answers[1]),
        broken=broken,
        unheard=unheard - told,
        repeated=tally.repeated and not told,
    )
    increment = Increment(
        stable,
        candidate,
        share=share,
        step=state.place,
        # Taking repeats that never were from stable's counts would leave nothing to compare with.
        retries_on_stable=repeats_on_stable(route) and not told,
        settled=after.settled,
        compared=answers[0],
        disagreed=answers[1],
    )
    return after, increment


def _in_step(tally: ObservedCounts, state: RolloutState, seconds: float, candidate: Counts) -> float:
    """Observed seconds of this step. A first version's watch begins with its first request."""
    before = tally.step_seconds if tally.place == state.place else 0.0
    is_first_watch = state.is_first and state.phase is Phase.WATCHING
    if is_first_watch and not before and not candidate.requests:
        return 0.0
    return before + seconds


def _counted(
    tally: ObservedCounts, route: Route, counters: Mapping[Endpoint, EndpointCounters], seconds: float
) -> tuple[Raw, Counts, Counts, float]:
    """Where the counters stand, what each arm did since the last look, and the share in force now.

    With hundreds of releases most looks find most of them unchanged: then there is nothing to count.
    """
    if tally.seen and tally.seen[0] is route and tally.seen[1] is counters and not tally.doubt:
        nothing = Counts(0, 0, 0, seconds)
        return tally.raw, nothing, nothing, tally.shares[-1][1]
    raw = dict(tally.raw)
    stable = _arm(route.stable, counters, raw, seconds, joined_late=True)
    candidate = _arm(route.candidate, counters, raw, seconds, joined_late=False)
    return raw, stable, candidate, share_in_force(route, counters)


def share_in_force(route: Route, counters: Mapping[Endpoint, EndpointCounters]) -> float:
    """The candidate's part (0-1) of what the proxy applies now: healthy endpoints of the first priority.

    Not what the route says: the proxy reads it a moment later, and leaves out endpoints it finds unhealthy.
    """
    theirs = route.candidate.endpoints if route.candidate else ()
    healthy = [(endpoint, each) for endpoint, each in counters.items() if each.healthy]
    first = min((each.priority for _, each in healthy), default=0)
    whole = mine = 0
    for endpoint, each in healthy:
        if each.priority == first:
            whole += each.weight
            mine += each.weight if endpoint in theirs else 0
    return mine / whole if whole else 0.0


def repeats_on_stable(route: Route) -> bool:
    """Whether the gateway asks stable what the candidate failed."""
    return route.settings.idempotent and route.stable is not None


def _broken(
    tally: ObservedCounts, route: Route, counters: Mapping[Endpoint, EndpointCounters]
) -> tuple[Mapping[Endpoint, int], int]:
    """The candidate's answers that did not end: as the proxy says, and how many are not among errors yet.

    As in `_first_sight`, what is there when an address is first seen is not this release's.
    """
    theirs = route.candidate.endpoints if route.candidate else ()
    now = {endpoint: counters[endpoint].broken for endpoint in theirs if endpoint in counters}
    more = (count - tally.broken.get(endpoint, count) for endpoint, count in now.items())
    return now, tally.unheard + sum(max(each, 0) for each in more)


def between(before: Record | None, after: Record) -> Increment:
    """What happened between two records: how a judge is fed again, by a restarted controller or a replay."""
    least = min(after.share, before.share if before else 0.0)
    asked, differed = before.answers if before else (0, 0)
    return Increment(
        after.stable - (before.stable if before else NO_COUNTS),
        after.candidate - (before.candidate if before else NO_COUNTS),
        share=least if after.least_share is None else after.least_share,
        step=after.place,
        retries_on_stable=after.retries_on_stable,
        settled=after.settled and before is not None and before.settled,
        compared=after.answers[0] - asked,
        disagreed=after.answers[1] - differed,
    )


def _lately(
    tally: ObservedCounts, share: float, now: float, timeout_seconds: float
) -> tuple[tuple[float, float], ...]:
    """The looks whose share may still decide what is finishing now.

    A request began up to its time limit ago, under the weights of then: right after a shift stable still
    finishes what it was given before, and the candidate has had no time to finish anything.
    """
    before = tally.shares or ((now, 0.0),)
    recent = [each for each in before[:-1] if 0 <= now - each[0] <= timeout_seconds]
    return (*recent, before[-1], (now, share))


def _seconds_since(before: float | None, now: float) -> float:
    return 0.0 if before is None else min(max(now - before, 0.0), LONGEST_LOOK_SECONDS)


def _arm(
    deployment: Deployment | None,
    counters: Mapping[Endpoint, EndpointCounters],
    raw: Raw,
    seconds: float,
    *,
    joined_late: bool,
) -> Counts:
    counts = Counts(0, 0, 0, seconds)
    for endpoint in deployment.endpoints if deployment else ():
        if (now := counters.get(endpoint)) is None:
            continue
        before = raw.get(endpoint) or _first_sight(now, joined_late)
        more, raw[endpoint] = _growth(before, now)
        counts += more
    return counts


def _first_sight(now: EndpointCounters, joined_late: bool) -> EndpointCounts:
    """Where to count from. A candidate's endpoint is new to the proxy: all it has done is this release's.

    Not so what the proxy counts by address, for addresses are used again.
    """
    if joined_late:
        return EndpointCounts(
            now.requests, now.errors, now.slow, now.refused, now.malformed, now.repeated, now.uninformative
        )
    repeated = max(now.repeated - (now.errors - now.broken), 0)
    return EndpointCounts(
        now.abandoned, now.broken, now.slow, now.refused, now.malformed, repeated, now.uninformative
    )


def _growth(before: EndpointCounts, now: EndpointCounters) -> tuple[Counts, EndpointCounts]:
    """What came on top, and up to where it is counted now.

    Lower counters began again at 0, who knows when: no growth. What became of an answer may be known some
    looks before or after Envoy counts it: the surplus waits.
    """
    goes_on = now.requests >= before.requests and now.errors >= before.errors
    requests, errors = (now.requests - before.requests, now.errors - before.errors) if goes_on else (0, 0)
    repeated = min(_more(before.repeated, now.repeated), errors)
    failed = errors - repeated
    failed -= min(max(failed - (requests - repeated), 0), now.broken)
    slow = min(_more(before.slow, now.slow), requests)
    refused = min(_more(before.refused, now.refused), max(requests - failed, 0))
    malformed = min(_more(before.malformed, now.malformed), max(requests - failed - refused, 0))
    uninformative = min(_more(before.uninformative, now.uninformative), malformed)
    stand = EndpointCounts(
        now.requests,
        before.errors + failed + repeated if goes_on else now.errors,
        _reached(before.slow, now.slow, slow),
        _reached(before.refused, now.refused, refused),
        _reached(before.malformed, now.malformed, malformed),
        _reached(before.repeated, now.repeated, repeated),
        _reached(before.uninformative, now.uninformative, uninformative),
    )
    return Counts(requests, failed, slow, 0.0, refused, malformed, uninformative), stand


def _more(before: int | None, now: int) -> int:
    return 0 if before is None else max(now - before, 0)


def _reached(before: int | None, now: int, counted: int) -> int:
    return now if before is None or now < before else before + counted


def _doubt(before: Raw, now: Raw) -> str:
    if any(value is not None and value < 0 for values in now.values() for value in values):
        return "a counter is negative"
    pairs = (pair for endpoint in before for pair in zip(now[endpoint], before[endpoint], strict=True))
    if any(old is not None and new is not None and new < old for new, old in pairs):
        return "counters began again, so this look counts nothing"
    return ""
