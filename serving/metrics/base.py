"""The observation port."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from serving.types import Endpoint


@dataclass(frozen=True, slots=True)
class EndpointCounters:
    """Cumulative per-endpoint counters as the proxy keeps them; they restart at 0 with the proxy or a re-add.

    `requests` completed attempts, `errors` failed ones (5xx, reset, timeout, connect failure, an answer that
    did not end), also those that were retried elsewhere. `slow` ones took longer than the service's latency
    objective, failed or not. The model itself `refused` some that were well-formed; `malformed` ones got any
    other 4xx, the `uninformative` of them for their size, lateness or number, or a 404. Part of `requests`
    are those `abandoned` by a client that had waited for longer than the objective. Part of `errors` are
    those `broken` after the answer began, which nothing repeats, and refused ones that were `repeated` on
    stable, for the proxy calls an error what it repeats. Like `slow` the proxy keeps these six by address,
    and they do not restart with a re-add.
    `active` requests are in flight now. `healthy` is the proxy's view of the endpoint. `weight` and
    `priority` (0 first) are what the proxy applies now, which is a moment later than what the route says.
    """

    requests: int
    errors: int
    slow: int
    active: int
    healthy: bool
    weight: int = 1
    priority: int = 0
    abandoned: int = 0
    broken: int = 0
    repeated: int = 0
    uninformative: int = 0
    refused: int = 0
    malformed: int = 0


class MetricsSource(Protocol):
    """Implementations pass `tests/contract/metrics_contract.py`."""

    def counters(self) -> dict[str, dict[Endpoint, EndpointCounters]]:
        """All services' endpoints in one read. Raises `Retryable` (MetricsUnavailable) when unanswered.

        A candidate's that get no live traffic yet are among them, with weight 0: so it is known where those
        counters stood before that the proxy keeps by address.
        """
        ...
