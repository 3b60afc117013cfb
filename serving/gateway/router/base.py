"""The traffic port: read a route, write a split. It never touches pods."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from model_store.errors import Permanent, Retryable
from serving.types import Deployment, Route, RouteSettings, TrafficSplit

# Arrays [n, ...] by name.
Rows = Mapping[str, Any]


class StaleRoute(Retryable):
    """Somebody else wrote the route first. Read it again and decide again."""

    @classmethod
    def of(cls, service: str, *, decided_on: int, now: int) -> StaleRoute:
        return cls(
            f"the route of {service} is at revision {now}, the decision was made on {decided_on}",
            remedy="read the route again and decide again",
            delay_seconds=0,
        )


class UnknownService(Permanent):
    """No route has this name."""

    def __init__(self, service: str, *, known: list[str]) -> None:
        super().__init__(
            f"no service is called {service!r}; there are: {', '.join(known) or 'none yet'}",
            remedy="check the name, or release the model first",
        )


class UnreadableRoute(Permanent):
    """The record of a route is torn, or was changed by hand into something else."""


class DifferentRoute(Permanent):
    """The gateway was told something that the ledger does not know: what runs goes on as it is."""


class TrafficRouter(Protocol):
    """Every write is compare-and-swap on `at`, so a rollback always beats a slower promotion.

    Implementations pass `tests/contract/router_contract.py`.
    """

    def services(self) -> list[str]:
        """Names of all services that have a route, sorted."""
        ...

    def read(self, service: str) -> Route:
        """The current route. Raises `Permanent`: UnknownService listing what exists, or UnreadableRoute."""
        ...

    def write(
        self,
        service: str,
        split: TrafficSplit,
        *,
        stable: Deployment | None,
        candidate: Deployment | None,
        at: int,
        settings: RouteSettings | None = None,
    ) -> Route:
        """Atomically replace arms and split. `at` is the revision the caller decided on (0: no route yet).

        `settings` None keeps what the route has (defaults for a new one). A deployment that was in the route
        keeps the endpoints that the route has: whoever decided on weights may know older ones (see `move`).

        Raises `StaleRoute` when the route has moved on.
        """
        ...

    def put(self, route: Route) -> Route:
        """Tell the gateway a route that was decided already, under its own revision, unless it was told this
        revision or a later one. Returns what the gateway is told now. Endpoints as in `write`.
        """
        ...

    def move(self, deployment: Deployment) -> Route:
        """Its pods are at these endpoints now: tell the proxy, with every weight as it is.

        No new revision: nobody decided anything, and what was decided on the route meanwhile stays good. What
        the route does not name, or names so already, changes nothing. Raises `UnknownService`.
        """
        ...

    def unacknowledged(self, route: Route) -> tuple[str, ...]:
        """Which proxies that may take traffic have not taken the route as it was written, each in a sentence.

        A step is taken when there is none. Whoever returns traffic does not ask: a rollback waits for nobody.
        """
        ...

    def reconcile(self) -> None:
        """Bring what follows from the routes into line with them. Raises while that cannot be written.

        After a `write` that raised, this is what may be missing.
        """
        ...


@dataclass(frozen=True, slots=True)
class ServedArm:
    """One arm of a route: the version, its bundle, and the percent of requests it was given."""

    version: int
    bundle_id: str
    weight: float


@dataclass(frozen=True, slots=True)
class RouteChange:
    """How `service` was routed from `at` until its next change. `arms`: stable, then candidate, if any."""

    at: datetime
    service: str
    revision: int
    stable: ServedArm | None
    candidate: ServedArm | None

    @property
    def arms(self) -> tuple[ServedArm, ...]:
        return tuple(arm for arm in (self.stable, self.candidate) if arm)


class RouteHistory(Protocol):
    """What served when, as far back as anybody wrote it down."""

    def read(self, *, offset: int = 0) -> tuple[list[RouteChange], int]:
        """The changes after `offset` (0: all), oldest first, and the offset to go on from."""
        ...


class TooManyRows(Permanent):
    """A request of so many rows is more than the model may be sent; fewer may do."""


class TooManyRequests(Retryable):
    """The model's limit on requests lets no more pass now."""


class Candidate(Protocol):
    """A candidate, asked through the gateway while it has no traffic."""

    def opened(self) -> AbstractContextManager[Candidate]:
        """Ready to be asked. What it takes to be let in ends with the context."""
        ...

    def answer(self, rows: Rows, *, until: float) -> Rows:
        """All outputs for these rows, as a caller gets them.

        Raises `TooManyRows`; `Permanent` for an answer of the candidate that is none; and `Retryable` when
        nobody has answered at the monotonic time `until`, `TooManyRequests` where a limit was why.
        """
        ...
