"""How long answers took, as counts by bucket: what was counted in two spans can be added, quantiles cannot.

Buckets grow by a tenth, so a quantile read from them is right within a few percent, as two figures are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from serving.types import Endpoint

# How many answers took longer than `_GROWTH ** (n - 1)` ms and up to `_GROWTH ** n`, by n.
Buckets = Mapping[int, int]

_GROWTH = 1.1
_SHORTEST_MS = 0.001


class LatencySource(Protocol):
    """Of one proxy."""

    def latencies(self, services: Iterable[str]) -> dict[str, dict[Endpoint, Buckets]]:
        """By service and endpoint, since the proxy started. Raises `Retryable` when it does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of both arms since a release started; `stood` is up to where each endpoint's counts were counted."""

    stable: Buckets = field(default_factory=dict)
    candidate: Buckets = field(default_factory=dict)
    stood: Mapping[Endpoint, Buckets] = field(default_factory=dict)

    def after(
        self, stable: Iterable[Endpoint], candidate: Iterable[Endpoint], seen: Mapping[Endpoint, Buckets]
    ) -> Latencies:
        """With what was answered since the look before. What an address had at first sight is not counted:
        the proxy keeps it of whoever had the address before."""
        return Latencies(
            added(self.stable, *(self._more(endpoint, seen) for endpoint in stable)),
            added(self.candidate, *(self._more(endpoint, seen) for endpoint in candidate)),
            {**self.stood, **seen},
        )

    def _more(self, endpoint: Endpoint, seen: Mapping[Endpoint, Buckets]) -> Buckets:
        now = seen.get(endpoint, {})
        return between(self.stood.get(endpoint, now), now)


def bucket_of(ms: float) -> int:
    """The number of the bucket."""
    return math.ceil(round(math.log(max(ms, _SHORTEST_MS), _GROWTH), 9))


def added(*each: Buckets) -> Buckets:
    """All counts together."""
    whole: dict[int, int] = {}
    for buckets in each:
        for number, count in buckets.items():
            whole[number] = whole.get(number, 0) + count
    return whole


def between(before: Buckets, now: Buckets) -> Buckets:
    """What was counted since. Lower counts began again at 0."""
    if any(count > now.get(number, 0) for number, count in before.items()):
        before = {}
    more = ((number, count - before.get(number, 0)) for number, count in now.items())
    return {number: count for number, count in more if count}


def quantile_ms(buckets: Buckets, share: float) -> float | None:
    """Which time that share (0-1) of the answers did not exceed, in ms; None: there are none."""
    left = share * sum(buckets.values())
    for number in sorted(buckets):
        if (count := buckets[number]) >= left > 0:
            return float(_GROWTH ** (number - 1 + left / count))
        left -= count
    return None
