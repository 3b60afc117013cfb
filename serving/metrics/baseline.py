"""Where the counters of one proxy of several are counted from. Pure.

Each proxy's begin again at 0 by themselves, when it is started anew. The sum must not shrink for that, nor
grow by what a proxy did before anybody looked at it: both would be taken for the releases' doing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, fields, replace
from typing import Any

from serving.metrics.base import EndpointCounters
from serving.metrics.latency import Buckets, added, between
from serving.types import Endpoint

# What only grows; the rest says how things are now.
_GROWING = tuple(
    each.name
    for each in fields(EndpointCounters)
    if each.name not in ("active", "healthy", "weight", "priority")
)
_SHARES = 10_000

Hosts = Mapping[Endpoint, EndpointCounters]
# In the order of `_GROWING`.
Counts = tuple[int, ...]


@dataclass(slots=True)
class Baseline:
    """Of one service in one proxy. `joined_late`: others were counted before it was first seen.

    `counted` is this proxy's part of the sum, by endpoint; `last` is what it said in the last look that it
    answered; `now` the same, if that was this look.
    """

    joined_late: bool
    counted: dict[Endpoint, Counts] = field(default_factory=dict)
    last: Hosts | None = None
    now: Hosts = field(default_factory=dict)

    def look(self, now: Hosts | None) -> None:
        """None: it did not answer, or does not know the service yet. What it has counted is kept."""
        if now is not None and now is not self.last:
            before = self.last
            self.counted |= {
                endpoint: self._counted(endpoint, each, before) for endpoint, each in now.items()
            }
        self.last = self.last if now is None else now
        self.now = now or {}

    def _counted(self, endpoint: Endpoint, now: EndpointCounters, before: Hosts | None) -> Counts:
        counts = _counts(now)
        counted = self.counted.get(endpoint)
        if counted is None:
            return tuple(0 for _ in counts) if before is None and self.joined_late else counts
        if before is None or endpoint not in before:
            return counted
        grown = [more - known for more, known in zip(counts, _counts(before[endpoint]), strict=True)]
        # They began again, who knows when: nothing is counted until the next look.
        return counted if min(grown) < 0 else tuple(map(sum, zip(counted, grown, strict=True)))

    def forget_all_but(self, endpoints: Set[Endpoint]) -> None:
        """The others are nobody's any more; who has their addresses next begins at 0."""
        if not self.counted.keys() <= endpoints:
            self.counted = {each: counts for each, counts in self.counted.items() if each in endpoints}


@dataclass(slots=True)
class LatencyBaseline:
    """The same of how long answers of one endpoint took."""

    joined_late: bool
    last: Buckets | None = None
    whole: Buckets = field(default_factory=dict)

    def after(self, now: Buckets) -> Buckets:
        first: Buckets = now if self.joined_late else {}
        self.whole = added(self.whole, between(first if self.last is None else self.last, now))
        self.last = now
        return self.whole


def summed(parts: Collection[Baseline]) -> dict[Endpoint, EndpointCounters]:
    """What several proxies have counted together, of the endpoints that one of them has now.

    An endpoint is healthy if one of them can reach it.
    """
    whole: dict[Endpoint, EndpointCounters] = {}
    for part in parts:
        for endpoint, each in part.now.items():
            known = whole.get(endpoint)
            whole[endpoint] = _beside(known, each) if known else each
    for endpoint, each in whole.items():
        counts = zip(*(part.counted[endpoint] for part in parts if endpoint in part.counted), strict=True)
        whole[endpoint] = _with_counts(each, tuple(map(sum, counts)))
    return _weighed(whole, [part.now for part in parts if part.now])


def _counts(of: EndpointCounters) -> Counts:
    return tuple(getattr(of, name) for name in _GROWING)


def _with_counts(now: EndpointCounters, counts: Counts) -> EndpointCounters:
    changed: dict[str, Any] = dict(zip(_GROWING, counts, strict=True))
    return replace(now, **changed)


def _beside(one: EndpointCounters, other: EndpointCounters) -> EndpointCounters:
    return replace(one, healthy=one.healthy or other.healthy, active=one.active + other.active)


def _weighed(whole: dict[Endpoint, EndpointCounters], parts: list[Hosts]) -> dict[Endpoint, EndpointCounters]:
    """With the weights in force: while proxies have different ones, the mean of their shares."""
    applied = {
        frozenset((endpoint, each.weight, each.priority) for endpoint, each in part.items()) for part in parts
    }
    if len(applied) == 1:
        return whole
    shares = [_shares(part) for part in parts]
    means = {endpoint: sum(each.get(endpoint, 0.0) for each in shares) / len(parts) for endpoint in whole}
    return {
        endpoint: replace(
            each, weight=max(round(_SHARES * means[endpoint]), 1), priority=0 if means[endpoint] else 1
        )
        for endpoint, each in whole.items()
    }


def _shares(part: Hosts) -> dict[Endpoint, float]:
    """Of the requests that go to each endpoint of the first priority."""
    first = min(each.priority for each in part.values())
    weights = {endpoint: each.weight for endpoint, each in part.items() if each.priority == first}
    total = sum(weights.values()) or 1
    return {endpoint: weight / total for endpoint, weight in weights.items()}
