"""Where every release stands, in the ledger's rows, which an old decision cannot overwrite.

A rollout's row holds its state, its events what happened to it, for people, and its observations what the
controller saw. A state is saved only over the generation it was decided on. Only the controller saves;
others read the same rows through it (`serving.control.rows_client`).
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Any, Protocol

from model_store.errors import Permanent, Retryable
from serving.control.analysis import AnalysisPolicy
from serving.control.rollout.plan import Phase, RolloutPlan, RolloutState, RolloutStep
from serving.control.rollout.record import NewerFormat, Record, finding_from_json, finding_to_json
from serving.ledger.base import Observations, Rows, StaleGeneration, Unknown
from serving.ledger.rows import EventRow, ObservationRow, RolloutRow
from serving.types import TrafficSplit

_RELEASE_ID = re.compile(r"(?P<service>.+)-v(?P<version>\d+)-(?P<at>\d{8}t\d{6}z)(-\d+)?", re.IGNORECASE)
# Written only while they say something: a Slipway of before they were added takes no names it does not know.
_SAID_IF_SET = ("paused", "unproven", "hold_skipped", "patience_from")
# Rollouts of so many releases are read at once.
_PIECE = 500

log = logging.getLogger("slipway.journal")


class StaleState(Retryable):
    """Somebody else saved the state first. Load it again and decide again."""


class UnknownRelease(Permanent):
    """No release has this id."""


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """Something that happened to a release, for people: shifted, promoted, rolled back, and why."""

    at: datetime
    kind: str
    detail: str
    candidate_weight: float


class StateRows(Rows, Observations, Protocol):
    """What a journal writes into."""


def release_id(model: str, version: int, *, at: datetime, again: int = 0) -> str:
    """`<model>-v<version>-<yyyymmddThhmmssZ>`, with `-<again>` for a repeat within the second."""
    return f"{model}-v{version}-{at:%Y%m%dT%H%M%SZ}" + (f"-{again}" if again else "")


class Journal:
    """What `rows` say of rollouts, each time anew."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._told: set[str] = set()

    def load(self, release: str) -> RolloutState:
        """Raises `UnknownRelease` listing the service's latest ones."""
        service = service_of(release)
        try:
            return state_of_row(self._rows.get(RolloutRow, release))
        except Unknown:
            raise _unknown(release, [state.release_id for state in self.releases(service)]) from None

    def timeline(self, release: str) -> tuple[TimelineEvent, ...]:
        return tuple(map(_event_of, self._rows.find(EventRow, release_id=release)))

    def services(self) -> list[str]:
        return sorted({row.service for row in self._rows.find(RolloutRow)})

    def releases(self, service: str) -> list[RolloutState]:
        """All releases of `service`, oldest first."""
        return [state_of_row(row) for row in self._rows.find(RolloutRow, service=service)]

    def active(self) -> list[RolloutState]:
        """Every release that is not over, of all services."""
        return [state_of_row(row) for row in self._rows.find(RolloutRow, is_over=False)]

    def every(self) -> list[RolloutState]:
        """Every release there was, oldest first."""
        return [state_of_row(row) for row in self._rows.find(RolloutRow)]

    def records(self, release: str) -> Iterator[Record]:
        """All observations, oldest first. Those of a newer format are left out."""
        return self._understood(self._rows.find(ObservationRow, release_id=release))

    def latest_record(self, release: str) -> Record | None:
        """The newest observation, or None while there is none."""
        return next(self._understood(self._rows.find(ObservationRow, release_id=release, newest=1)), None)

    def create(self, state: RolloutState, event: TimelineEvent) -> RolloutState:
        """Only the controller's journal does (`KeptJournal`)."""
        raise _not_here()

    def save(self, state: RolloutState, event: TimelineEvent) -> RolloutState:
        """Only the controller's journal does (`KeptJournal`)."""
        raise _not_here()

    def observed(self, release: str) -> int:
        """The number of the newest observation: it is the same as long as there is nothing new."""
        found = self._rows.find(ObservationRow, release_id=release, newest=1)
        return found[0].number if found else 0

    def _understood(self, rows: Iterable[ObservationRow]) -> Iterator[Record]:
        for row in rows:
            try:
                yield Record.from_json(row.document)
            except NewerFormat as problem:
                self._tell_once(row.release_id, problem)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue

    def _tell_once(self, release: str, problem: NewerFormat) -> None:
        if release not in self._told:
            self._told.add(release)
            log.error(
                "%s has observations of %s: they count for nothing here; update this process",
                release,
                problem,
            )


class KeptJournal(Journal):
    """The journal of the process that writes it. Safe for threads.

    Every state is in memory as well, so that a look asks the ledger nothing: what is saved here is known
    here, and `refresh` learns what another controller saved. Observations wait for `flush`, and are written
    all at once.
    """

    def __init__(self, rows: StateRows) -> None:
        super().__init__(rows)
        self._ledger = rows
        self._guarded = threading.RLock()
        # Of their own: whoever saves a state may wait for the ledger, and a look does not.
        self._flushing, self._adding = threading.Lock(), threading.Lock()
        self._states: dict[str, RolloutState] = {}
        self._by_service: dict[str, list[RolloutState]] = {}
        self._latest: dict[str, Record] = {}
        self._lines: list[ObservationRow] = []
        self._seen = 0
        self.refresh()

    def create(self, state: RolloutState, event: TimelineEvent) -> RolloutState:
        """Save a new release; one that exists is returned as it stands."""
        service_of(state.release_id)
        try:
            return self._save(state, event, generation=0)
        except StaleState:
            return self.load(state.release_id)

    def save(self, state: RolloutState, event: TimelineEvent) -> RolloutState:
        """Replace the generation the state was made from. Raises `StaleState` if that is not the latest."""
        changed = replace(state, generation=state.generation + 1)
        return self._save(changed, event, generation=state.generation + 1)

    def load(self, release: str) -> RolloutState:
        service = service_of(release)
        if release not in self._states:
            # Who stands by may be asked for what the one that leads wrote a moment ago.
            self._read_again(release)
        if known := self._states.get(release):
            return known
        raise _unknown(release, [state.release_id for state in self.releases(service)])

    def services(self) -> list[str]:
        return sorted(self._by_service)

    def releases(self, service: str) -> list[RolloutState]:
        return self._by_service.get(service, [])

    def active(self) -> list[RolloutState]:
        return [state for state in self.every() if not state.phase.is_final]

    def every(self) -> list[RolloutState]:
        return list(self._states.values())

    def latest_record(self, release: str) -> Record | None:
        return self._latest.get(release) or super().latest_record(release)

    def records(self, release: str) -> Iterator[Record]:
        self.flush()
        return super().records(release)

    def append(self, release: str, record: Record) -> None:
        """Add an observation, which is written by the next `flush`. Only the controller does."""
        document = record.to_json()
        line = ObservationRow(release_id=release, at=record.at, place=record.place, document=document)
        with self._adding:
            self._latest[release] = record
            self._lines.append(line)

    def flush(self) -> None:
        """Write what was appended. What could not be written waits for the next call."""
        with self._flushing:
            with self._adding:
                lines, self._lines = self._lines, []
            if not lines:
                return
            try:
                self._ledger.observe(*lines)
            except Permanent:
                self._flush_each(lines)
            except BaseException:
                with self._adding:
                    self._lines = [*lines, *self._lines]
                raise

    def _flush_each(self, lines: list[ObservationRow]) -> None:
        """One that no ledger takes must not keep the others from being written."""
        for number, line in enumerate(lines):
            try:
                self._ledger.observe(line)
            except Permanent as problem:
                log.error("an observation of %s is lost: %s", line.release_id, problem.problem)
            except BaseException:
                with self._adding:
                    self._lines = [*lines[number:], *self._lines]
                raise

    def refresh(self) -> None:
        """Learn what others saved since: every save leaves an event."""
        with self._guarded:
            if not self._seen:
                self._seen = max((event.number for event in self._rows.find(EventRow, newest=1)), default=0)
                for skip in itertools.count(0, _PIECE):
                    rows = self._rows.find(RolloutRow, newest=_PIECE, skip=skip)
                    self._take(rows)
                    if len(rows) < _PIECE:
                        return
            events = self._rows.find(EventRow, after=self._seen)
            changed = sorted({event.release_id for event in events})
            for start in range(0, len(changed), _PIECE):
                self._take(self._rows.find(RolloutRow, release_id=changed[start : start + _PIECE]))
            self._seen = max([self._seen, *(event.number for event in events)])

    def _save(self, state: RolloutState, event: TimelineEvent, *, generation: int) -> RolloutState:
        row = row_of_state(state, changed_at=event.at, generation=generation)
        happened = EventRow(release_id=state.release_id, **asdict(event))
        try:
            with self._guarded:
                self._ledger.save(row, happened)
                self._keep(state)
        except StaleGeneration as stale:
            self._read_again(state.release_id)
            raise StaleState(stale.problem, remedy=stale.remedy, delay_seconds=0) from stale
        return state

    def _read_again(self, release: str) -> None:
        with self._guarded:
            self._take(self._rows.find(RolloutRow, release_id=release))

    def _take(self, rows: Iterable[RolloutRow]) -> None:
        for row in rows:
            known = self._states.get(row.release_id)
            if known and known.generation >= row.generation:
                continue
            try:
                self._keep(state_of_row(row))
            except (ValueError, KeyError, TypeError, AttributeError):
                log.exception("%s: its rollout is not what it should be, and is left alone", row.release_id)

    def _keep(self, state: RolloutState) -> None:
        self._states[state.release_id] = state
        others = [
            each for each in self._by_service.get(state.service, []) if each.release_id != state.release_id
        ]
        self._by_service[state.service] = sorted(
            [*others, state], key=lambda each: (each.started_at, each.release_id)
        )
        if state.phase.is_final:
            self._latest.pop(state.release_id, None)


def _not_here() -> Permanent:
    return Permanent(
        "rollouts are written by the controller alone", remedy="ask it (serving.control.traffic)"
    )


def service_of(release: str) -> str:
    """The service that a release id names. Raises `UnknownRelease` for what is no release id."""
    match = _RELEASE_ID.fullmatch(release)
    if not match or "/" in release or ".." in release:
        raise UnknownRelease(
            f"{release!r} is no release id", remedy="release ids look like fraud-v3-20261121T201500Z"
        )
    return match["service"]


def _unknown(release: str, known: list[str]) -> UnknownRelease:
    return UnknownRelease(
        f"there is no release {release}; the latest are: {', '.join(known[-5:]) or 'none'}",
        remedy="check the release id",
    )


def row_of_state(state: RolloutState, *, changed_at: datetime, generation: int) -> RolloutRow:
    """`generation`: of the row that it takes the place of. A row's is one more than its state's."""
    return RolloutRow(
        release_id=state.release_id,
        service=state.service,
        version=state.version,
        phase=state.phase.value,
        is_over=state.phase.is_final,
        started_at=state.started_at,
        changed_at=changed_at,
        document=state_to_json(state),
        generation=generation,
    )


def state_of_row(row: RolloutRow) -> RolloutState:
    """The inverse."""
    return replace(state_from_json(dict(row.document)), generation=row.generation - 1)


def _event_of(row: EventRow) -> TimelineEvent:
    return TimelineEvent(row.at, row.kind, row.detail, row.candidate_weight)


def state_to_json(state: RolloutState) -> dict[str, Any]:
    """Plain JSON values."""
    said = {name: value for name, value in asdict(state).items() if value or name not in _SAID_IF_SET}
    times = {name: getattr(state, name).isoformat() for name in ("step_started_at", "started_at")}
    return {**said, **times, "findings": [finding_to_json(finding) for finding in state.findings]}


def state_from_json(saved: dict[str, Any]) -> RolloutState:
    """The inverse of `state_to_json`, once it was written and read."""
    read = {
        **saved,
        "plan": _plan(saved["plan"]),
        "phase": Phase(saved["phase"]),
        "step_started_at": _time(saved["step_started_at"]),
        "started_at": _time(saved["started_at"]),
        "findings": tuple(finding_from_json(finding) for finding in saved["findings"]),
    }
    return RolloutState(**_known(RolloutState, read))


def _known(kind: type[Any], saved: dict[str, Any]) -> dict[str, Any]:
    """What this version knows of it: a newer one may have added fields that it can do without."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in saved.items() if name in names}


def _plan(saved: dict[str, Any]) -> RolloutPlan:
    steps = tuple(RolloutStep(TrafficSplit(**step["split"]), step["hold_seconds"]) for step in saved["steps"])
    policy = AnalysisPolicy(**_known(AnalysisPolicy, saved["policy"]))
    return RolloutPlan(**_known(RolloutPlan, {**saved, "steps": steps, "policy": policy}))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
