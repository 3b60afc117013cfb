"""Where every release stands, as files that a crash cannot tear and an old decision cannot overwrite.

`<root>/<service>/<release_id>.json` holds the state and its timeline, `<release_id>.counts.jsonl` what the
controller saw. A state is saved only over the generation it was decided on.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from model_store.durable import write_file
from model_store.errors import Permanent, Retryable
from serving.control.analysis import AnalysisPolicy
from serving.control.rollout.plan import Phase, RolloutPlan, RolloutState, RolloutStep
from serving.control.rollout.record import NewerFormat, Record, finding_from_json, finding_to_json
from serving.types import TrafficSplit

_RELEASE_ID = re.compile(r"(?P<service>.+)-v(?P<version>\d+)-(?P<at>\d{8}t\d{6}z)(-\d+)?", re.IGNORECASE)
_TAIL_BYTES = 64 * 1024
# Grows only when an older Slipway would take a state for something it is not; see
# `serving.control.rollout.record`.
_SCHEMA = 1
# Written only while they say something: a Slipway of before they were added takes no names it does not know.
_SAID_IF_SET = ("paused", "unproven", "hold_skipped", "patience_from")

log = logging.getLogger("slipway.journal")


class StaleState(Retryable):
    """Somebody else saved the state first. Load it again and decide again."""


class UnknownRelease(Permanent):
    """No release has this id."""


class NewerState(Permanent):
    """A newer Slipway wrote this release, and deciding on half of what it says would be a guess."""


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """Something that happened to a release, for people: shifted, promoted, rolled back, and why."""

    at: datetime
    kind: str
    detail: str
    candidate_weight: float


def release_id(model: str, version: int, *, at: datetime, again: int = 0) -> str:
    """`<model>-v<version>-<yyyymmddThhmmssZ>`, with `-<again>` for a repeat within the second."""
    return f"{model}-v{version}-{at:%Y%m%dT%H%M%SZ}" + (f"-{again}" if again else "")


class Journal:
    """The files under `root`. Many processes may use one journal."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._mended: dict[str, Path] = {}
        self._told: set[Path] = set()

    def create(self, state: RolloutState, event: TimelineEvent) -> RolloutState:
        """Save a new release; one that exists is returned as it stands."""
        with self._exclusive(state.service):
            path = self.path(state.release_id)
            if not path.exists():
                _write(path, state, (event,))
            return _read(path)[0]

    def load(self, release: str) -> RolloutState:
        """Raises `UnknownRelease` listing the service's latest ones."""
        return self._read(release)[0]

    def timeline(self, release: str) -> tuple[TimelineEvent, ...]:
        return self._read(release)[1]

    def save(self, state: RolloutState, event: TimelineEvent) -> RolloutState:
        """Replace the generation the state was made from. Raises `StaleState` if that is not the latest."""
        with self._exclusive(state.service):
            path = self.path(state.release_id)
            latest, events = self._read(state.release_id)
            if latest.generation != state.generation:
                raise StaleState(
                    f"{state.release_id} is at generation {latest.generation}, "
                    f"the decision was made on {state.generation}",
                    remedy="load the release again and decide again",
                    delay_seconds=0,
                )
            saved = replace(state, generation=state.generation + 1)
            _write(path, saved, (*events, event))
            return saved

    def services(self) -> list[str]:
        return sorted(os.listdir(self.root)) if self.root.exists() else []  # noqa: PTH208 - names are enough

    def releases(self, service: str) -> list[RolloutState]:
        """All releases of `service`, oldest first."""
        found = (_read(path)[0] for path in self.files(service))
        return sorted(found, key=lambda state: (state.started_at, state.release_id))

    def active(self) -> list[RolloutState]:
        """Every release that is not over, of all services."""
        every = (state for service in self.services() for state in self.releases(service))
        return [state for state in every if not state.phase.is_final]

    def append(self, release: str, record: Record) -> None:
        """Add a line to the release's observations. Only the controller does."""
        path = self._mended.get(release)
        if path is None:
            path = self._mended[release] = self.counts_path(release)
            _end_last_line(path)
        line = record.to_line()
        with path.open("ab", buffering=0) as file:
            if file.write(line) < len(line):
                del self._mended[release]
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def records(self, release: str) -> Iterator[Record]:
        """All observations, oldest first. Lines torn by a crash, or of a newer format, are left out."""
        path = self.counts_path(release)
        if path.exists():
            with path.open("rb") as file:
                yield from self._understood(path, file)

    def latest_record(self, release: str) -> Record | None:
        """The newest observation, or None while there is none."""
        path = self.counts_path(release)
        if not path.exists():
            return None
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return next(self._understood(path, reversed(file.read().splitlines())), None)

    def _understood(self, path: Path, lines: Iterable[bytes]) -> Iterator[Record]:
        for line in lines:
            try:
                yield Record.from_line(line)
            except NewerFormat as problem:
                self._tell_once(path, problem)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue

    def _tell_once(self, path: Path, problem: NewerFormat) -> None:
        if path not in self._told:
            self._told.add(path)
            log.error("%s has lines of %s: they count for nothing here; update this process", path, problem)

    def path(self, release: str) -> Path:
        match = _RELEASE_ID.fullmatch(release)
        if not match or "/" in release or ".." in release:
            raise UnknownRelease(
                f"{release!r} is no release id", remedy="release ids look like fraud-v3-20261121T201500Z"
            )
        return self.root / match["service"] / f"{release}.json"

    def counts_path(self, release: str) -> Path:
        return self.path(release).with_suffix(".counts.jsonl")

    def files(self, service: str) -> list[Path]:
        """The state files of `service`."""
        return [
            path for path in (self.root / service).glob("*.json") if _RELEASE_ID.fullmatch(path.name[:-5])
        ]

    def _read(self, release: str) -> tuple[RolloutState, tuple[TimelineEvent, ...]]:
        path = self.path(release)
        try:
            return _read(path)
        except FileNotFoundError:
            known = [state.release_id for state in self.releases(path.parent.name)][-5:]
            raise UnknownRelease(
                f"there is no release {release}; the latest are: {', '.join(known) or 'none'}",
                remedy="check the release id",
            ) from None

    @contextmanager
    def _exclusive(self, service: str) -> Iterator[None]:
        folder = self.root / service
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def read_state(path: Path) -> RolloutState:
    """The state in one file of `Journal.files`."""
    return _read(path)[0]


def _write(path: Path, state: RolloutState, events: tuple[TimelineEvent, ...]) -> None:
    content = {
        "schema": _SCHEMA,
        "state": state_to_json(state),
        "timeline": [asdict(event) for event in events],
    }
    write_file(path, orjson.dumps(content, option=orjson.OPT_INDENT_2))


def _read(path: Path) -> tuple[RolloutState, tuple[TimelineEvent, ...]]:
    saved = orjson.loads(path.read_bytes())
    if saved.get("schema", 1) > _SCHEMA:
        raise NewerState(
            f"{path} has schema {saved['schema']}, and this Slipway knows schemas up to {_SCHEMA}",
            remedy="restart this process with the version that wrote it, or go back in all of them",
        )
    events = tuple(
        TimelineEvent(**_known(TimelineEvent, {**event, "at": _time(event["at"])}))
        for event in saved["timeline"]
    )
    return state_from_json(saved["state"]), events


def state_to_json(state: RolloutState) -> dict[str, Any]:
    """Plain values that `orjson` writes."""
    said = {name: value for name, value in asdict(state).items() if value or name not in _SAID_IF_SET}
    return {**said, "findings": [finding_to_json(finding) for finding in state.findings]}


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


def _end_last_line(path: Path) -> None:
    """What a writer that was killed left unfinished stays a line of its own."""
    if path.exists() and path.stat().st_size:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
