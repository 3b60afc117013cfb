"""The files of an installation of before there was a ledger, each as the rows that it comes to. Only read.

The formats are those of the last Slipway that wrote files (docs/decisions/0126-one-ledger.md has the table).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from serving.ledger.rows import (
    AttemptRow,
    AuditRow,
    DeliveryRow,
    EventRow,
    FreezeRow,
    LockRow,
    MessageRow,
    NoteRow,
    ObservationRow,
    OverrideRow,
    ReleaseRecord,
    RequestRow,
    RolloutRow,
    RouteChangeRow,
    RouteRow,
    Row,
    Unstorable,
    normalised,
)

# A file of a format that came later is not guessed at.
_SCHEMA = 1
# What a file that is not what it should be comes to, read in any of these ways.
WRONG = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, Unstorable)

Read = Callable[[Path], Iterable[Row]]


@dataclass(frozen=True, slots=True)
class Kind:
    """Files of one kind. `beside`: what else is read with one of them."""

    pattern: str
    read: Read
    beside: Callable[[Path], Iterable[Path]] = lambda path: (path,)


class Torn(Row):
    """In place of a line that is none."""


def _releases(path: Path) -> Iterator[Row]:
    saved, outcome = _json(path), _json(_outcome_of(path)) if _outcome_of(path).exists() else {}
    request = saved["request"]
    yield ReleaseRecord(
        id=saved["id"],
        model=saved["model"],
        version=saved["version"],
        requested_at=_time(request["at"]),
        requested_by=request["by"],
        status=outcome.get("status", ""),
        ended_at=_time(outcome["at"]) if outcome else None,
        document={**saved, **({"outcome": outcome} if outcome else {})},
        generation=1,
    )


def _outcome_of(release: Path) -> Path:
    return release.parent / "outcomes" / release.name


def _rollouts(path: Path) -> Iterator[Row]:
    if path.name == "lock.json":
        yield from _turn(path)
        return
    saved = _json(path)
    state, timeline = saved["state"], saved["timeline"]
    yield RolloutRow(
        release_id=state["release_id"],
        service=state["service"],
        version=state["version"],
        phase=state["phase"],
        is_over=state["phase"] in ("done", "rolled_back"),
        started_at=_time(state["started_at"]),
        changed_at=_time(timeline[-1]["at"] if timeline else state["step_started_at"]),
        document=state,
        # A file's first generation was 0; here that is a row which is not there.
        generation=state["generation"] + 1,
    )
    for one in timeline:
        told = {name: one[name] for name in ("kind", "detail", "candidate_weight")}
        yield EventRow(release_id=state["release_id"], at=_time(one["at"]), **told)


def _turn(path: Path) -> Iterator[Row]:
    saved = _json(path)
    holder, waiting = saved["holder"] or {}, saved["waiting"] or {}
    yield LockRow(
        service=path.parent.name,
        at=_changed(path),
        holder=holder.get("release_id"),
        holder_at=_time(holder["requested_at"]) if holder else None,
        waiting=waiting.get("release_id"),
        waiting_at=_time(waiting["requested_at"]) if waiting else None,
        generation=1,
    )


def _observations(path: Path) -> Iterator[Row]:
    release_id = path.name.removesuffix(".counts.jsonl")
    yield from _lines(
        path,
        lambda _, saved: ObservationRow(
            release_id=release_id, at=_time(saved["at"]), place=saved["place"], document=saved
        ),
    )


def _routes(path: Path) -> Iterator[Row]:
    locality = _json(path)["resources"][0]["endpoints"][0]
    record = locality["metadata"]["filter_metadata"]["slipway"]
    stable, candidate = record["stable"] or {}, record["candidate"] or {}
    yield RouteRow(
        service=record["service"],
        at=_changed(path),
        stable_version=stable.get("version"),
        stable_bundle_id=stable.get("bundle_id"),
        candidate_version=candidate.get("version"),
        candidate_bundle_id=candidate.get("bundle_id"),
        candidate_weight=float(record["split"]["candidate"]),
        document=record,
        generation=record["revision"],
    )


def _history(path: Path) -> Iterator[Row]:
    yield from _lines(path, _change)


def _change(number: int, saved: dict[str, Any]) -> Row:
    stable, candidate = saved["stable"] or {}, saved["candidate"] or {}
    return RouteChangeRow(
        service=saved["service"],
        revision=saved["revision"],
        at=_time(saved["at"]),
        stable_version=stable.get("version"),
        stable_bundle_id=stable.get("bundle_id"),
        candidate_version=candidate.get("version"),
        candidate_bundle_id=candidate.get("bundle_id"),
        candidate_weight=float(candidate.get("weight", 0)),
    )


def _audit(path: Path) -> Iterator[Row]:
    """Named by their lines, so that an act is the same entry however often its file is read."""
    names = ("who", "action", "model", "version", "release_id", "reason")
    yield from _lines(
        path,
        lambda number, saved: AuditRow(
            id=f"{path.name}:{number}",
            at=_time(saved["at"]),
            document=saved.get("detail", {}),
            **{name: saved[name] for name in names},
        ),
    )


def _freezes(path: Path) -> Iterator[Row]:
    saved = _json(path)
    yield FreezeRow(
        id=saved["id"],
        model=saved["model"],
        by=saved["by"],
        reason=saved["reason"],
        since=_time(saved["since"]),
        until=_time(saved["until"]) if saved["until"] else None,
        lifted_by=saved.get("lifted_by", ""),
        lifted_at=_time(saved["lifted_at"]) if saved.get("lifted_at") else None,
        generation=1,
    )


def _overrides(path: Path) -> Iterator[Row]:
    saved = _json(path)
    words = {name: saved[name] for name in ("release_id", "by", "reason")}
    yield OverrideRow(at=_time(saved["at"]), generation=1, **words)


def _rollbacks(path: Path) -> Iterator[Row]:
    saved = _json(path)
    wish = saved["wish"]
    switched = saved.get("switched_at")
    is_open = bool(saved.get("by_controller")) and not switched and not saved.get("failed")
    yield RequestRow(
        id=saved["id"],
        service=wish["model"],
        action="rollback",
        by=wish["by"],
        reason=wish["reason"],
        at=_time(wish["at"]),
        # Open is only what a controller had begun and not ended, which goes on with it.
        status="failed" if saved.get("failed") else "open" if is_open else "done",
        answer=saved.get("failed") or ("" if is_open else "asked for before there was a ledger"),
        answered_at=_time(switched) if switched else None,
        document=saved,
        generation=1,
    )


def _attempts(folder: Path) -> Iterator[Row]:
    """Of `tried`, and the marks of `asked` beside it: `v3.json`, `v3.withdrawn-1`, and `v3` there."""
    model = folder.parent.name
    for name in sorted({path.name.partition(".")[0] for path in folder.iterdir() if path.name[0] == "v"}):
        tried, asked = folder / f"{name}.json", folder.parent / "asked" / name
        saved = _json(tried) if tried.exists() else {}
        marked = _changed(asked) if asked.exists() else None
        yield AttemptRow(
            id=f"{model}/{name}",
            model=model,
            version=int(name.removeprefix("v")),
            run_id=saved.get("run_id", ""),
            at=_time(saved["at"]) if "at" in saved else _changed(folder),
            withdrawn=len(list(folder.glob(f"{name}.withdrawn-*"))),
            asked_at=marked,
            generation=1,
        )


def _notes(path: Path) -> Iterator[Row]:
    """`hold/held.json`, `hold/asked_back.json` and `notes/alias.json` of a model."""
    saved = _json(path)
    model, kind = path.parent.parent.name, "hold" if path.stem == "held" else path.stem
    at = _time(saved["since"] if "since" in saved else saved["at"])
    yield NoteRow(id=f"{model}/{kind}", model=model, kind=kind, at=at, document=saved, generation=1)


def _letters(path: Path) -> Iterator[Row]:
    saved = _json(path)
    yield MessageRow(
        id=path.stem,
        model=saved["message"]["model"],
        at=_time(saved["message"]["at"]),
        next_at=_time(saved["next_at"]),
        status={"sent": "sent", "given_up": "given_up"}.get(path.parent.name, "waiting"),
        tries=saved["tries"],
        document={"message": saved["message"], "receiver": saved["receiver"]},
        generation=1,
    )


def _deliveries(path: Path) -> Iterator[Row]:
    words = path.read_text().strip()
    yield DeliveryRow(id=f"mlflow/{path.name}", source="mlflow", at=_changed(path), words=words, generation=1)


def _lines(path: Path, made: Callable[[int, dict[str, Any]], Row]) -> Iterator[Row]:
    """Of each line that is whole. One that is still being written counts as torn."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line:
            try:
                yield normalised(made(number, dict(orjson.loads(line))))
            except WRONG:
                yield Torn()


def _json(path: Path) -> dict[str, Any]:
    saved = dict(orjson.loads(path.read_bytes()))
    if saved.get("schema", _SCHEMA) > _SCHEMA:
        raise ValueError(f"schema {saved['schema']}, written by a newer Slipway")
    return saved


def _time(text: str) -> datetime:
    """What Slipway wrote always has its zone; a person's file may not."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _with_outcome(path: Path) -> tuple[Path, Path]:
    return path, _outcome_of(path)


def _of_folder(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


# In the order in which they are taken over: what the controller needs first.
KINDS = (
    Kind("envoy/routes/*/endpoints.json", _routes),
    Kind("journal/*/*.json", _rollouts),
    Kind("releases/*/*.json", _releases, _with_outcome),
    Kind("history/routes.jsonl", _history),
    Kind("audit/*.jsonl", _audit),
    Kind("freezes/*.json", _freezes),
    Kind("freezes/lifted/*.json", _freezes),
    Kind("freezes/overrides/*.json", _overrides),
    Kind("releases/*/rollbacks/*.json", _rollbacks),
    Kind("releases/*/tried", _attempts, _of_folder),
    Kind("releases/*/hold/*.json", _notes),
    Kind("releases/*/notes/*.json", _notes),
    Kind("outbox/*.json", _letters),
    Kind("outbox/sent/*.json", _letters),
    Kind("outbox/given_up/*.json", _letters),
    Kind("inbox/mlflow/*/*", _deliveries),
    Kind("journal/*/*.counts.jsonl", _observations),
)

# Those that nobody writes or reads as files any more, which the controller takes over when it starts.
_MOVED: frozenset[Read] = frozenset(
    {
        _releases,
        _rollbacks,
        _audit,
        _freezes,
        _overrides,
        _letters,
        _deliveries,
        _attempts,
        _notes,
        _routes,
        _rollouts,
        _history,
        _observations,
    }
)
MOVED = tuple(kind for kind in KINDS if kind.read in _MOVED)
# But for those that are written still, as what Envoy is told.
MOVED_FOR_GOOD = tuple(kind for kind in MOVED if kind.read is not _routes)
