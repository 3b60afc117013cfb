"""Which versions were tried, so that nothing starts a second release of one by itself.

A row of the ledger for each version names the one DAG run that may release it without being asked by a
person; of several runs that find the version at once exactly one gets it. It also has the moment at which
Airflow was last told of the version, while that run has not begun yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from model_store.types import ModelRef
from serving.ledger.base import Rows, StaleGeneration
from serving.ledger.rows import AttemptRow

# A run that was asked for begins within seconds. Later, the asking was lost.
START_TIMEOUT = timedelta(minutes=2)
# Of a version that was only asked for, or missed.
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class ReleaseAttempts:
    """Those among `rows`. Many processes may use them at once."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def claim(self, ref: ModelRef, run_id: str, *, at: datetime) -> str:
        """Make this run the one that tries the version, unless there is one. Returns which run it is."""
        found = self._change(ref, lambda one: None if one.run_id else replace(one, run_id=run_id, at=at))
        return found.run_id

    def of(self, ref: ModelRef) -> str | None:
        """The run that tried the version, None while nobody did."""
        return self._read(ref).run_id or None

    def withdraw(self, ref: ModelRef, run_id: str) -> None:
        """The run did not get to begin, so the version may be tried by another one."""
        self._change(ref, lambda one: _withdrawn(one) if one.run_id == run_id else None)

    def miss(self, ref: ModelRef, run_id: str) -> None:
        """As `withdraw`, also if the run did not even get to claim the version, nor anybody else."""
        self._change(ref, lambda one: _withdrawn(one) if one.run_id in ("", run_id) else None)

    def withdrawn(self, ref: ModelRef) -> int:
        """How often a run did not get to begin."""
        return self._read(ref).withdrawn

    def ask(self, ref: ModelRef, *, at: datetime) -> bool:
        """Whether to ask Airflow for this version now: nobody tried it, nor asked a moment ago."""
        asked = False

        def change(one: AttemptRow) -> AttemptRow | None:
            nonlocal asked
            asked = not one.run_id and not _was_requested(one, at)
            return replace(one, asked_at=at) if asked else None

        self._change(ref, change)
        return asked

    def was_requested(self, ref: ModelRef, *, at: datetime) -> bool:
        """Whether Airflow was told of this version a moment ago."""
        return _was_requested(self._read(ref), at)

    def _change(self, ref: ModelRef, change: Callable[[AttemptRow], AttemptRow | None]) -> AttemptRow:
        """What it is afterwards. `change` says None where it is to stay as it is; it decides again on what
        somebody else made of it meanwhile."""
        while True:
            known = self._read(ref)
            if (wanted := change(known)) is None:
                return known
            try:
                self._rows.save(wanted)
            except StaleGeneration:
                continue
            return wanted

    def _read(self, ref: ModelRef) -> AttemptRow:
        name = f"{ref.name}/v{ref.version}"
        found = self._rows.find(AttemptRow, id=name)
        unused = AttemptRow(id=name, model=ref.name, version=ref.version, run_id="", at=_NEVER)
        return found[0] if found else unused


def _withdrawn(one: AttemptRow) -> AttemptRow:
    return replace(one, run_id="", withdrawn=one.withdrawn + 1)


def _was_requested(one: AttemptRow, at: datetime) -> bool:
    return one.asked_at is not None and abs(at - one.asked_at) < START_TIMEOUT
