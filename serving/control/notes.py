"""What is so of a model until somebody ends it: that it is held, or why its alias starts nothing.

One row of the ledger for each model and kind, whatever it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from serving.ledger.base import Rows, StaleGeneration
from serving.ledger.rows import NoteRow


class NoteKind(StrEnum):
    """HOLD: only people change what serves. ASKED_BACK: an alert asked for a rollback. ALIAS: why nothing
    follows from where the alias points."""

    HOLD = "hold"
    ASKED_BACK = "asked_back"
    ALIAS = "alias"


class Notes:
    """Those among `rows`. Many processes may use them at once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def find(self, model: str, kind: NoteKind) -> NoteRow | None:
        """As it stands; None if nothing of the kind is so."""
        found = self._any(model, kind)
        return found if found and found.ended_at is None else None

    def standing(self, *kinds: NoteKind) -> list[NoteRow]:
        """Of all models."""
        return self._rows.find(NoteRow, kind=tuple(kinds), ended_at=None)

    def write(
        self, model: str, kind: NoteKind, document: Mapping[str, Any], *, at: datetime, anew: bool = True
    ) -> NoteRow:
        """Note it, since `at`. What stands is replaced; unless `anew`: then it stays and is returned."""
        while True:
            known = self._any(model, kind)
            if known and known.ended_at is None and not anew:
                return known
            empty = NoteRow(id=f"{model}/{kind}", model=model, kind=kind.value, at=at)
            made = replace(known or empty, at=at, ended_at=None, document=document)
            try:
                self._rows.save(made)
            except StaleGeneration:
                continue
            return made

    def end(self, model: str, kind: NoteKind, *, at: datetime) -> None:
        """It is so no more. May be repeated."""
        while known := self.find(model, kind):
            try:
                self._rows.save(replace(known, ended_at=at))
            except StaleGeneration:
                continue
            return

    def _any(self, model: str, kind: NoteKind) -> NoteRow | None:
        return next(iter(self._rows.find(NoteRow, id=f"{model}/{kind}")), None)
