"""What served when: a line for every write of a route, in one file, so that any moment can be asked for.

The endpoint file says how a route is; this says how it was. Lines are appended by whoever writes a route,
each by one write of less than a page, which the kernel does not interleave with another's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from serving.gateway.router.base import RouteChange, Served
from serving.types import Deployment, Route

log = logging.getLogger(__name__)


class RouteHistoryFile:
    """`RouteHistory` in the file at `path`. Many processes may append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, route: Route, *, at: datetime) -> None:
        """Write the route down. A disk that takes no line must not keep traffic from being moved."""
        line = orjson.dumps(_to_json(route, at), option=orjson.OPT_APPEND_NEWLINE)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b", buffering=0) as file:
                # What a full disk or a crash cut off stays a line of its own.
                file.write(line if _ends_whole(file.fileno()) else b"\n" + line)
        except OSError as problem:
            log.warning("the history of %s misses revision %d: %s", route.service, route.revision, problem)

    def read(self, *, offset: int = 0) -> tuple[list[RouteChange], int]:
        """The changes after byte `offset`, oldest first, and the offset to go on from.

        A last line that is still being written waits for the next call; one torn by a crash is skipped.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                content = file.read()
        except FileNotFoundError:
            return [], 0
        whole, _, rest = content.rpartition(b"\n")
        return list(_changes(whole)), offset + len(content) - len(rest)

    def stamp(self) -> tuple[int, int]:
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return (0, 0)
        return stat.st_ino, stat.st_size


def _ends_whole(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"


def _changes(content: bytes) -> Iterator[RouteChange]:
    for line in content.splitlines():
        try:
            yield _from_json(orjson.loads(line))
        except (ValueError, KeyError, TypeError):
            continue


def _to_json(route: Route, at: datetime) -> dict[str, Any]:
    split = route.split
    return {
        "at": at,
        "service": route.service,
        "revision": route.revision,
        "stable": _arm(route.stable, split.stable),
        "candidate": _arm(route.candidate, split.candidate),
    }


def _arm(deployment: Deployment | None, weight: float) -> dict[str, Any] | None:
    if deployment is None:
        return None
    return {"version": deployment.version, "bundle_id": deployment.bundle_id, "weight": weight}


def _from_json(saved: dict[str, Any]) -> RouteChange:
    arms = {name: Served(**saved[name]) if saved[name] else None for name in ("stable", "candidate")}
    return RouteChange(datetime.fromisoformat(saved["at"]), saved["service"], saved["revision"], **arms)
