"""Rows between the process that has the ledger and those that ask it: plain JSON values, and back.

What comes from outside is looked at: a kind or a field that there is not, or a value of another type, is
`Malformed`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from typing import Any, get_args, get_origin, get_type_hints

from model_store.errors import Permanent
from serving.ledger.base import Change, Once, Rows, Wanted
from serving.ledger.rows import KINDS, Kept, Row

_KINDS = {kind.kind_name(): kind for kind in KINDS}


class Malformed(Permanent):
    """What was sent is no row, or asks for none."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, remedy="send what serving.ledger.wire writes")


@dataclass(frozen=True, slots=True)
class Query:
    """What `Rows.find` is asked, as a value."""

    kind: type[Row]
    since: datetime | None = None
    until: datetime | None = None
    after: int | None = None
    newest: int | None = None
    skip: int = 0
    equal: Mapping[str, Wanted] = field(default_factory=dict)

    def answered_by(self, rows: Rows) -> list[Row]:
        return rows.find(
            self.kind,
            since=self.since,
            until=self.until,
            after=self.after,
            newest=self.newest,
            skip=self.skip,
            **self.equal,
        )


def kind_of(name: object) -> type[Row]:
    """Raises `Malformed` listing the kinds."""
    if not isinstance(name, str) or name not in _KINDS:
        raise Malformed(f"there are no rows of kind {str(name)[:40]!r}; there are {', '.join(_KINDS)}")
    return _KINDS[name]


def row_to_json(row: Row) -> dict[str, Any]:
    """The row and its kind. Times are ISO 8601."""
    told = {each.name: _told(getattr(row, each.name)) for each in fields(row)}
    return {"kind": row.kind_name(), "row": told}


def row_from_json(told: object) -> Row:
    """The inverse. Fields that are left out have their defaults."""
    said = _object(told)
    kind, values = kind_of(said.get("kind")), _object(said.get("row"))
    known = _TYPES[kind]
    if unknown := values.keys() - known.keys():
        raise Malformed(f"{kind.kind_name()} has no {', '.join(sorted(unknown))}")
    if missing := _REQUIRED[kind] - values.keys():
        raise Malformed(f"{kind.kind_name()} lacks {', '.join(sorted(missing))}")
    return kind(**{name: _read(kind, name, value) for name, value in values.items()})


def change_to_json(change: Change) -> dict[str, Any]:
    return {**row_to_json(change.row), "once": True} if isinstance(change, Once) else row_to_json(change)


def change_from_json(told: object) -> Change:
    row = row_from_json(told)
    if not _object(told).get("once"):
        return row
    if not isinstance(row, Kept):
        raise Malformed(f"{row.kind_name()} has no key that it could be there by already")
    return Once(row)


def query_to_json(query: Query) -> dict[str, Any]:
    told = {name: _told(getattr(query, name)) for name in ("since", "until", "after", "newest", "skip")}
    equal = {name: _wanted(value) for name, value in query.equal.items()}
    return {"kind": query.kind.kind_name(), "equal": equal, **told}


def query_from_json(told: object) -> Query:
    """The inverse. Names that rows are not found by are left to the ledger, which lists those there are."""
    said = _object(told)
    kind = kind_of(said.get("kind"))
    times = {name: _time(name, said[name]) for name in ("since", "until") if said.get(name) is not None}
    numbers = {name: _number(name, said[name]) for name in ("after", "newest") if said.get(name) is not None}
    skip = _number("skip", said.get("skip", 0))
    equal = {name: _asked(kind, name, value) for name, value in _object(said.get("equal", {})).items()}
    return Query(
        kind,
        since=times.get("since"),
        until=times.get("until"),
        after=numbers.get("after"),
        newest=numbers.get("newest"),
        skip=skip,
        equal=equal,
    )


def _wanted(value: Wanted) -> Any:
    return sorted(value) if isinstance(value, Collection) and not isinstance(value, str) else _told(value)


def _asked(kind: type[Row], name: str, value: Any) -> Wanted:
    if isinstance(value, list):
        return [str(each) for each in value]
    if value is None or name not in _TYPES[kind]:
        return None
    found: Wanted = _read(kind, name, value)
    return found


def _read(kind: type[Row], name: str, value: Any) -> Any:
    """A value of this field. Raises `Malformed` where its type is another."""
    wanted = _TYPES[kind][name]
    if datetime in wanted and value is not None:
        return _time(name, value)
    # JSON's numbers are of one kind, and a bool is an int to Python.
    if float in wanted and type(value) is int:
        return float(value)
    if type(value) not in wanted:
        raise Malformed(f"{kind.kind_name()}.{name} is {str(value)[:40]!r}")
    return value


def _object(told: object) -> Mapping[str, Any]:
    if not isinstance(told, dict):
        raise Malformed(f"{str(told)[:40]!r} is no JSON object")
    return told


def _told(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _time(name: str, text: object) -> datetime:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError as problem:
        raise Malformed(f"{name} is no time: {str(text)[:40]!r}") from problem


def _number(name: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise Malformed(f"{name} is no whole number: {str(value)[:40]!r}")
    return value


def _choices(hint: Any) -> tuple[type, ...]:
    if get_origin(hint) is None:
        return (hint,)
    return (dict,) if get_origin(hint) is Mapping else get_args(hint)


def _fields(kind: type[Row]) -> Mapping[str, tuple[type, ...]]:
    hints = get_type_hints(kind)
    return {each.name: _choices(hints[each.name]) for each in fields(kind)}


# What each field may be, and which have to be said.
_TYPES = {kind: _fields(kind) for kind in KINDS}
_REQUIRED = {
    kind: frozenset(
        each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING
    )
    for kind in KINDS
}
