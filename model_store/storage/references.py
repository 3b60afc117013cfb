"""What a stage's result names: it can be used again only while all of that is kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def references(value: Any) -> Iterable[tuple[str, str]]:
    """Every stored thing a memo's value names: artifact records, `{"blob": digest}` and `{"bundle": id}`."""
    if isinstance(value, dict):
        if "digest" in value and "toolchain" in value:
            yield "digest", value["digest"]
        yield from ((kind, value[kind]) for kind in ("blob", "bundle") if isinstance(value.get(kind), str))
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)
