"""Writes sampled requests to Parquet files, off the event loop, and deletes the old ones.

One file, `<folder>/<model>/v<version>-<time>-<n>.parquet`, holds up to `FILE_ROWS` requests of a version; it
is written to a temporary name and renamed. Columns: `at` (UTC), `bundle`, `version`, `code`, `seconds`,
`rows`, `identity` (digest of the canonical input), and for each tensor `in:<name>` / `out:<name>` (raw bytes
as in the binary tensor extension) with `shape:<name>` / `shape:out:<name>` ("1,30").
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model_store.engines.manifest import LogSettings, Manifest
from model_store.engines.signature import Shape
from serving.pod.call import BatchOutputs, Call, Data
from serving.pod.codec.blob import write_blob, write_elements
from serving.pod.identity import digest

log = logging.getLogger("slipway.pod")

FILE_ROWS = 4096
_FLUSH_SECONDS = 10.0
_MOST_WAITING = 20_000


class RequestLogWriter:
    """One model version's log. `record` costs a dice roll, and a queue put for what is sampled."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        settings: LogSettings,
        *,
        chance: random.Random,
        now: Callable[[], datetime],
    ) -> None:
        self._folder, self._manifest, self._settings = folder / manifest.name, manifest, settings
        self._share, self._random, self._now = settings.share, chance.random, now
        self._rows: queue.Queue[dict[str, Any] | None] = queue.Queue(_MOST_WAITING)
        self._files = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name="request-log", daemon=True)
        self._thread.start()

    def record(self, call: Call, code: int, seconds: float, outputs: BatchOutputs | None, first: int) -> None:
        """Maybe write this request down; `outputs` rows from `first` are its answer, None when it failed."""
        if self._random() >= self._share:
            return
        try:
            self._rows.put_nowait(self._row(call, code, seconds, outputs, first))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is waiting. Takes as long as a write."""
        self._rows.put(None)
        self._thread.join(10)

    def _row(
        self, call: Call, code: int, seconds: float, outputs: BatchOutputs | None, first: int
    ) -> dict[str, Any]:
        signature = self._manifest.signature
        row: dict[str, Any] = {
            "at": self._now(),
            "bundle": self._manifest.id,
            "version": self._manifest.version,
            "code": code,
            "seconds": seconds,
            "rows": call.rows,
            "identity": digest(call)[:16].hex(),
        }
        for spec, data, shape in zip(signature.inputs, call.data, call.shapes, strict=True):
            row[f"in:{spec.name}"], row[f"shape:{spec.name}"] = _raw(data), _text(shape)
        for position, spec in enumerate(signature.outputs):
            if outputs is None:
                row[f"out:{spec.name}"], row[f"shape:out:{spec.name}"] = None, None
            else:
                array = outputs.slice(position, first, call.rows)
                row[f"out:{spec.name}"] = write_blob(array, spec.datatype.name)
                row[f"shape:out:{spec.name}"] = _text(array.shape)
        return row

    def _work(self) -> None:
        rows: list[dict[str, Any]] = []
        while True:
            try:
                row = self._rows.get(timeout=_FLUSH_SECONDS)
            except queue.Empty:
                self._flush(rows)
                continue
            if row is not None:
                rows.append(row)
            if row is None or len(rows) >= FILE_ROWS:
                self._flush(rows)
            if row is None:
                return

    def _flush(self, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        try:
            self._write(rows)
            delete_old(self._folder, self._settings, self._now())
        except OSError as error:
            self.dropped += len(rows)
            log.warning("the request log cannot be written: %s", error)
        rows.clear()

    def _write(self, rows: list[dict[str, Any]]) -> None:
        # Imported here, on the log's own thread: pyarrow takes a quarter of a second.
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._folder.mkdir(parents=True, exist_ok=True)
        self._files += 1
        stamp = f"{self._now():%Y%m%dT%H%M%S%f}"
        path = self._folder / f"v{self._manifest.version}-{stamp}-{self._files}.parquet"
        partial = path.with_suffix(".partial")
        pq.write_table(pa.Table.from_pylist(rows), partial, compression="zstd")
        partial.rename(path)


def delete_old(folder: Path, settings: LogSettings, now: datetime) -> None:
    """Keep the newest files within the spec's days and megabytes."""
    room = settings.max_mb * 1024 * 1024
    oldest = now.timestamp() - settings.keep_days * 86_400
    for path in sorted(folder.glob("*.parquet"), key=lambda path: path.stat().st_mtime, reverse=True):
        found = path.stat()
        room -= found.st_size
        if room < 0 or found.st_mtime < oldest:
            path.unlink(missing_ok=True)


def utc_now() -> datetime:
    return datetime.now(UTC)


def _raw(data: Data) -> bytes:
    return write_elements(data) if isinstance(data, list) else bytes(data)


def _text(shape: Shape) -> str:
    return ",".join(map(str, shape))
