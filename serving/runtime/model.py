"""One served model version: its engine, its batches, its numbers, and the words it answers with."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from model_store.errors import SlipwayError
from serving.runtime.batching import Batcher
from serving.runtime.call import Call
from serving.runtime.codec.response import ResponseWriter
from serving.runtime.engine.base import Engine
from serving.runtime.engine.registry import open_engine
from serving.runtime.errors import ModelFault
from serving.runtime.execution import Executor
from serving.runtime.faults import Faults, faults_for
from serving.runtime.manifest import Manifest, read_manifest
from serving.runtime.telemetry import ModelMetrics
from serving.runtime.warmup import Warmed, warm

# A batch this short costs less than handing it to a thread and back (docs/decisions/0022).
INLINE_BELOW_SECONDS = 0.0004


class OpenedModel:
    """A bundle read, its engine loaded and warm: everything that takes long, done off the event loop."""

    def __init__(self, bundle: Path, clock: Callable[[], float]) -> None:
        self.manifest: Manifest = read_manifest(bundle)
        self.engine: Engine = open_engine(self.manifest)
        self.executor = Executor(self.engine, self.manifest.signature, self.manifest.settings)
        self.warmed: Warmed = warm(self.executor, self.manifest, self.engine.profiles, clock)


class ServedModel:
    """Lives on the event loop. Raises nothing later than its constructor except to the caller of `infer`."""

    def __init__(
        self,
        opened: OpenedModel,
        *,
        slot: str,
        faults: str,
        chance: random.Random,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
    ) -> None:
        manifest = self.manifest = opened.manifest
        self.name, self.version = manifest.name, manifest.version
        self.signature, self.engine, self.warmed = manifest.signature, opened.engine, opened.warmed
        self.metrics = ModelMetrics()
        self.writer = ResponseWriter(self.name, self.version, self.signature)
        self.headers = response_headers(manifest, slot)
        self.in_flight = 0
        self._loop, self._clock = loop, clock
        self._faults: Faults | None = faults_for(self.name, self.version, faults, chance)
        self.batcher = Batcher(
            opened.executor,
            manifest.settings,
            is_batched=self.signature.is_batched,
            inline=opened.warmed.largest_batch_seconds < INLINE_BELOW_SECONDS,
            loop=loop,
            clock=clock,
            on_batch=self.metrics.batch,
        )

    def infer(self, call: Call) -> None:
        """Queue a call. Raises `Unavailable` when full; everything later reaches `call.failed`."""
        call.arrived = self._clock()
        self.in_flight += 1
        try:
            self._start(call)
        except SlipwayError:
            self.in_flight -= 1
            raise

    def _start(self, call: Call) -> None:
        if self._faults is not None:
            self._infer_faulty(call, self._faults)
            return
        self.batcher.submit(call)

    def _infer_faulty(self, call: Call, faults: Faults) -> None:
        if faults.strikes():
            fault = ModelFault("SLIPWAY_FAULTS asked for this error", remedy="unset SLIPWAY_FAULTS")
            self._loop.call_later(faults.delay_seconds, call.failed, fault)
        elif faults.delay_seconds:
            self._loop.call_later(faults.delay_seconds, self._submit_late, call)
        else:
            self.batcher.submit(call)

    def _submit_late(self, call: Call) -> None:
        try:
            self.batcher.submit(call)
        except SlipwayError as error:
            call.failed(error)

    def record(self, call: Call, code: int) -> None:
        """Count a finished request."""
        self.in_flight -= 1
        metrics = self.metrics
        metrics.finished(code)
        metrics.total.observe(self._clock() - call.arrived)
        metrics.queued.observe(max(call.started - call.arrived, 0.0))

    def close(self) -> None:
        """Only when nothing is in flight."""
        self.batcher.close()
        self.engine.close()


def response_headers(manifest: Manifest, slot: str) -> bytes:
    """The headers every answer of this model carries, so that callers and the guard know who spoke."""
    lines = [f"x-slipway-bundle: {manifest.id}", f"x-slipway-version: {manifest.version}"]
    if slot:
        lines.append(f"x-slipway-slot: {slot}")
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")
