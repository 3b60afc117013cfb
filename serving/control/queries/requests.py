"""What was asked for, releases and rollbacks, as the pages have it: asked once, and then for what changed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import count
from types import MappingProxyType
from typing import Any

from model_store.errors import Retryable
from serving.control.queries import outcomes
from serving.control.queries.outcomes import ReleaseOutcome
from serving.control.queries.snapshots import (
    RequestSnapshot,
    RollbackSnapshot,
    request_snapshot,
    rollback_snapshot,
)
from serving.control.releases import FORGOTTEN, UNREADABLE, ChangedReleases
from serving.control.rollbacks import ROLLBACK
from serving.ledger.base import Rows
from serving.ledger.rows import R, ReleaseChangeRow, ReleaseRecord, RequestRow

# So many rows are asked for at once: a release has its spec in it.
_PIECE = 200
_NONE: Mapping[str, Any] = MappingProxyType({})

log = logging.getLogger(__name__)


class RequestFeed:
    """Releases, their outcomes and rollbacks, as of the last `refresh`. Of one thread at a time."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self._changes = rows, ChangedReleases(rows)
        self._is_known = False
        # Changes that were told, whose rows were not read yet.
        self._due: list[ReleaseChangeRow] = []
        self._requests: dict[str, dict[str, RequestSnapshot]] = {}
        self._outcomes: dict[str, dict[str, ReleaseOutcome]] = {}
        self._rollbacks: dict[str, dict[str, RollbackSnapshot]] = {}

    def requests(self, model: str) -> Mapping[str, RequestSnapshot]:
        """Of one model, by release."""
        return self._requests.get(model, _NONE)

    def outcomes(self, model: str) -> Mapping[str, ReleaseOutcome]:
        return self._outcomes.get(model, _NONE)

    def rollbacks(self, model: str) -> Mapping[str, RollbackSnapshot]:
        return self._rollbacks.get(model, _NONE)

    def names(self) -> set[str]:
        """Every model of which anything was asked."""
        return {*self._requests, *self._rollbacks}

    def refresh(self) -> set[str]:
        """Ask for what changed. Which models it is of; what is known stays while nobody answers.

        Raises `Retryable` where nothing is known yet.
        """
        try:
            self._due += self._changes.take()
            if not self._is_known:
                found = self._all(ReleaseRecord, self._take_release)
                found |= self._all(RequestRow, self._take_request, action=ROLLBACK)
                self._is_known = True
            else:
                found = self._again(ReleaseRecord, self._take_release)
                found |= self._again(RequestRow, self._take_request)
        except Retryable as problem:
            if not self._is_known:
                raise
            log.warning("the pages show what was known last: %s", problem.problem)
            return set()
        self._due = []
        return found

    def _all(self, kind: type[R], take: Callable[[R], str], **equal: Any) -> set[str]:
        changed: set[str] = set()
        for skip in count(0, _PIECE):
            rows = self._rows.find(kind, newest=_PIECE, skip=skip, **equal)
            changed |= {take(row) for row in rows}
            if len(rows) < _PIECE:
                return changed
        raise AssertionError("counting never ends")

    def _again(self, kind: type[R], take: Callable[[R], str]) -> set[str]:
        names = sorted({each.id for each in self._due if each.kind == kind.kind_name()})
        found: set[str] = set()
        for start in range(0, len(names), _PIECE):
            found |= {take(row) for row in self._rows.find(kind, id=names[start : start + _PIECE])}
        return found

    def _take_release(self, row: ReleaseRecord) -> str:
        """What is no release is left out, as if it were not there."""
        try:
            request = None if row.status == FORGOTTEN else request_snapshot(row)
        except UNREADABLE:
            request = None
        try:
            outcome = outcomes.of_row(row)
        except UNREADABLE:
            outcome = None
        self._put(self._requests, row.model, row.id, request)
        self._put(self._outcomes, row.model, row.id, outcome)
        return row.model

    def _take_request(self, row: RequestRow) -> str:
        try:
            back = rollback_snapshot(row) if row.action == ROLLBACK else None
        except UNREADABLE:
            back = None
        self._put(self._rollbacks, row.service, row.id, back)
        return row.service

    def _put(self, kept: dict[str, dict[str, Any]], model: str, name: str, value: Any) -> None:
        """Once all is known, others read a model's meanwhile."""
        of_model = dict(kept.get(model, {})) if self._is_known else kept.get(model, {})
        if value is None:
            of_model.pop(name, None)
        else:
            of_model[name] = value
        if of_model or model in kept:
            kept[model] = of_model
