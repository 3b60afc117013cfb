"""The pod's log: one JSON object a line, with the request id where a line is about a request."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

log = logging.getLogger("slipway.pod")

_LINES_PER_SECOND = 20


class JsonLines(logging.Formatter):
    """`extra={"fields": {...}}` adds fields to a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def write_json_lines(level: int = logging.INFO) -> None:
    """Send everything that is logged to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)


class FailureLog:
    """Says which requests failed and why, in no more lines a second than a log can take."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = 0
        self._lines = 0

    def failed(self, words: str, headers: Mapping[bytes, bytes], **fields: object) -> None:
        """One request was answered with a 5xx."""
        second = int(self._clock())
        if second != self._second:
            if self._lines > _LINES_PER_SECOND:
                log.warning("%d more requests failed in that second", self._lines - _LINES_PER_SECOND)
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines <= _LINES_PER_SECOND:
            request_id = headers.get(b"x-request-id", b"").decode("latin-1")
            trace = headers.get(b"traceparent", b"").decode("latin-1")
            found = {"request_id": request_id, "traceparent": trace, **fields}
            log.warning(words, extra={"fields": {key: value for key, value in found.items() if value}})
