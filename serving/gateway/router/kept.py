"""Routes as the controller decides them: in the ledger first, then told to the gateway.

A way back goes the other way round: the gateway is told at once, whether or not the ledger can be reached,
and the ledger follows. What the gateway was told beyond the ledger's revision is such a way back, which this
process, one that crashed or `./slipway rollback` could not write down yet: it is written down by the next
one that reads the route and may. Anything else that the ledger does not know is left as it runs
(`DifferentRoute`).

Endpoints are what was seen, not decided: they are in the row as of the last decision, and each machine's
gateway is told where pods moved since.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from model_store.errors import Retryable
from serving.gateway.router.base import DifferentRoute, StaleRoute, TrafficRouter, UnknownService
from serving.ledger import rows as ledger
from serving.ledger.base import Fenced, Rows, StaleGeneration
from serving.types import ALL_STABLE, Deployment, Route, RouteSettings, TrafficSplit

log = logging.getLogger(__name__)

# Of rows that a restart or an outage left behind; each missing revision is one save.
_MOST_MISSING = 20
_ADOPT = (
    "is it an older backup? Look at both; `./slipway adopt {service} --reason WHY` takes what runs for what "
    "was decided"
)


class LedgerRouter:
    """`TrafficRouter` of the one process that writes routes. `told` is what the gateway follows;
    `require_last` raises where another process has taken over. Safe for threads.

    Rows are kept in memory, so that a look asks the ledger nothing; `refresh` learns what another controller
    wrote, and tells the gateway.
    """

    def __init__(
        self,
        rows: Rows,
        told: TrafficRouter,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        require_last: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger, self._told, self._now = rows, told, now
        self._require_last = require_last
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._routes: dict[str, Route] = {}
        self._owed: set[str] = set()
        self._seen = 0
        self.refresh()

    def services(self) -> list[str]:
        return sorted(self._routes)

    def read(self, service: str) -> Route:
        decided = self._decided(service)
        told = self._told_of(service)
        if told is None or told.revision < decided.revision:
            return decided.placed_as_in(told) if told else decided
        if _is_same(decided, told):
            return told
        return self._taken_back(service)

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
        with self._locks[service]:
            before = self._before(service)
            if before.revision != at:
                raise StaleRoute.of(service, decided_on=at, now=before.revision)
            after = Route(service, at + 1, split, stable, candidate, settings or before.settings)
            after = after.placed_as_in(before)
            if before.revision and _is_way_back(before, after):
                self._require_last()
                # Traffic before books: `settle`, or the next one who reads it, writes it down.
                self._owed.add(service)
                return self._told.put(after)
            self._save(after)
            return self._told.put(after)

    def put(self, route: Route) -> Route:
        return self._told.put(route)

    def move(self, deployment: Deployment) -> Route:
        route = self._decided(deployment.service)
        if self._told_of(deployment.service) is None:
            self._told.put(route)
        self._told.move(deployment)
        return self.read(deployment.service)

    def unacknowledged(self, route: Route) -> tuple[str, ...]:
        told = self._told_of(route.service)
        if told is None or told.revision < route.revision:
            return (f"the gateway was not told revision {route.revision} of {route.service} yet",)
        return self._told.unacknowledged(route)

    def reconcile(self) -> None:
        for service, route in self._routes.items():
            told = self._told_of(service)
            if told is None or told.revision < route.revision:
                self._told.put(route)
        if unknown := set(self._told.services()) - self._routes.keys():
            log.error("the ledger knows nothing of %s, which serve: `./slipway adopt`", ", ".join(unknown))
        self._told.reconcile()

    def refresh(self) -> None:
        """Learn what another controller wrote since, or what was written although nobody heard so."""
        if not self._seen:
            self._seen = max(
                (each.number for each in self._ledger.find(ledger.RouteChangeRow, newest=1)), default=0
            )
            self._take(self._ledger.find(ledger.RouteRow))
            return
        changes = self._ledger.find(ledger.RouteChangeRow, after=self._seen)
        if changed := sorted({change.service for change in changes}):
            self._take(self._ledger.find(ledger.RouteRow, service=changed))
            self._seen = changes[-1].number
            for service in changed:
                self._told.put(self._routes[service])

    def settle(self) -> None:
        """Write down the ways back that are not yet. What cannot be now stays owed, and where it runs."""
        for service in list(self._owed):
            told = self.read(service)
            if self._decided(service).revision >= told.revision:
                self._owed.discard(service)

    def adopt(self, service: str) -> Route:
        """Take what the gateway was told for what was decided, whatever it is. May be repeated."""
        with self._locks[service]:
            told, decided = self._told.read(service), self._routes.get(service)
            if decided and (decided.revision > told.revision or _is_same(decided, told)):
                return self.read(service)
            # Of a ledger that was restored: it may have missed any number.
            return self._write_down(told, most=max(_MOST_MISSING, told.revision), is_adopted=True)

    def _decided(self, service: str) -> Route:
        try:
            return self._routes[service]
        except KeyError:
            self._refuse_if_it_runs(service)
            raise UnknownService(service, known=self.services()) from None

    def _refuse_if_it_runs(self, service: str) -> None:
        """Who took it for a service that is new would start pods where those that serve are."""
        if self._told_of(service) is not None:
            raise DifferentRoute(
                f"the gateway was told of {service}, and the ledger knows nothing of it; nothing is moved",
                remedy=_ADOPT.format(service=service),
            )

    def _before(self, service: str) -> Route:
        try:
            return self.read(service)
        except UnknownService:
            return Route(service, 0, ALL_STABLE, None, None)

    def _told_of(self, service: str) -> Route | None:
        try:
            return self._told.read(service)
        except UnknownService:
            return None

    def _taken_back(self, service: str) -> Route:
        """What the gateway was told beyond the ledger, written down where it is a way back."""
        with self._locks[service]:
            # Who held the lock may have written it down meanwhile.
            told, decided = self._told.read(service), self._decided(service)
            if told.revision < decided.revision:
                return decided.placed_as_in(told)
            if _is_same(decided, told):
                return told
            if not _is_way_back(decided, told):
                raise DifferentRoute(
                    f"the gateway was told revision {told.revision} of {service}, and the ledger has "
                    f"{decided.revision} with another split or other versions; nothing is moved",
                    remedy=_ADOPT.format(service=service),
                )
            try:
                return self._write_down(told)
            except (Retryable, Fenced) as problem:
                log.debug("traffic of %s went back, and is not written down yet: %s", service, problem)
                self._owed.add(service)
                return told

    def _write_down(self, told: Route, *, most: int = _MOST_MISSING, is_adopted: bool = False) -> Route:
        """With a revision for each that is missing: they grow by one.

        What somebody else has decided meanwhile of other versions stands, unless it `is_adopted`.
        """
        for _ in range(most):
            decided = self._routes.get(told.service)
            generation = decided.revision if decided else 0
            if generation >= told.revision:
                if decided and not is_adopted and not _is_way_back(decided, told):
                    return self._told.put(decided)
                told = self._told.put(replace(told, revision=generation + 1))
            with suppress(StaleRoute):
                self._save(replace(told, revision=generation + 1))
                if generation + 1 == told.revision:
                    return told
        raise StaleRoute(
            f"the route of {told.service} keeps changing while it is written down",
            remedy="it is tried again",
            delay_seconds=0,
        )

    def _save(self, route: Route) -> None:
        try:
            self._ledger.save(row_of(route, at=self._now()))
        except StaleGeneration as stale:
            self._take(self._ledger.find(ledger.RouteRow, service=route.service))
            now = self._routes[route.service].revision if route.service in self._routes else 0
            raise StaleRoute.of(route.service, decided_on=route.revision - 1, now=now) from stale
        self._routes[route.service] = route

    def _take(self, rows: list[ledger.RouteRow]) -> None:
        for row in rows:
            with self._locks[row.service]:
                known = self._routes.get(row.service)
                if known is None or known.revision < row.generation:
                    self._routes[row.service] = route_of_row(row)


def route_of_row(row: ledger.RouteRow) -> Route:
    """The generation is the revision."""
    return replace(Route.from_json(row.document), revision=row.generation)


def row_of(route: Route, *, at: datetime) -> ledger.RouteRow:
    """The row that is saved over the revision before the route's."""
    stable, candidate = route.stable, route.candidate
    return ledger.RouteRow(
        service=route.service,
        at=at,
        stable_version=stable.version if stable else None,
        stable_bundle_id=stable.bundle_id if stable else None,
        candidate_version=candidate.version if candidate else None,
        candidate_bundle_id=candidate.bundle_id if candidate else None,
        candidate_weight=float(route.split.candidate),
        document=route.to_json(),
        generation=route.revision - 1,
    )


def _decision(route: Route) -> tuple[object, ...]:
    """What somebody decided, without where pods are."""
    return (
        route.split,
        route.stable.ref if route.stable else None,
        route.candidate.ref if route.candidate else None,
        route.settings,
    )


def _is_same(decided: Route, told: Route) -> bool:
    """Whether the gateway was told what was decided last."""
    return told.revision == decided.revision and _decision(told) == _decision(decided)


def _is_way_back(before: Route, after: Route) -> bool:
    """Whether it only takes the candidate's requests away, or leaves it without, as it was."""
    return after.split == ALL_STABLE and _decision(replace(after, split=before.split)) == _decision(before)
