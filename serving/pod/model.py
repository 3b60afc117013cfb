"""One served model version: the way a call takes through cache, admission and batches, and back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from model_store.engines.base import Supervised, ThreadBound
from model_store.engines.errors import Abandoned, Expired, ModelFault, TooLarge, Unavailable, status_of
from model_store.engines.manifest import Manifest
from model_store.engines.signature import Signature
from model_store.errors import SlipwayError
from serving.pod.answers import Answers
from serving.pod.batching import Batcher
from serving.pod.call import BatchOutputs, Call, nothing
from serving.pod.call_queue import CallQueue
from serving.pod.codec.invocations import Invocations
from serving.pod.codec.plans import Plans
from serving.pod.codec.response import ResponseWriter
from serving.pod.execution import Executed
from serving.pod.fallback import COVERED, FallbackAnswers, RelayedCall
from serving.pod.faults import WARMUP_HEADER, Faults, faults_for
from serving.pod.large import LargeCalls
from serving.pod.logs import FailureLog
from serving.pod.opened import OpenedModel
from serving.pod.patience import Patience
from serving.pod.quick_hits import QuickHits
from serving.pod.sizes import Sizes
from serving.pod.surroundings import Surroundings
from serving.pod.telemetry import ModelMetrics
from serving.pod.urgency import Priority

if TYPE_CHECKING:
    from serving.pod.recording.writer import RequestLogWriter

log = logging.getLogger("slipway.pod")

_BROKE = "an answer broke the pod's own code"
# Why a large call was not computed to its end, by the status of its answer.
_DROPPED = {413: "too_large", 429: "shed", 499: "abandoned"}


class ServedModel:
    """Lives on the event loop. Every call that enters `infer` is answered or failed exactly once."""

    def __init__(self, opened: OpenedModel, around: Surroundings, metrics: ModelMetrics) -> None:
        manifest = self.manifest = opened.manifest
        self.name, self.version = manifest.name, manifest.version
        self.signature, self.engine, self.warmed = manifest.signature, opened.engine, opened.warmed
        self.timeout_seconds = manifest.settings.timeout_ms / 1000
        self.metrics = metrics
        self.writer = ResponseWriter(self.name, self.version, self.signature)
        self.plans = Plans()
        self.invocations = Invocations(self.signature, manifest.invocations)
        self.headers = response_headers(manifest, around.slot)
        self._executor = opened.executor
        self.in_flight = 0
        # By priority.
        self.computing = [0] * len(Priority)
        self._loop, self._clock, self._find = around.loop, around.clock, around.relay
        self._faults: Faults | None = faults_for(self.name, self.version, around.faults, around.chance)
        self._failures, self._tracer = FailureLog(around.clock), around.tracer
        self.log = _request_log(manifest, around)
        self.answers = Answers.of(
            manifest,
            self._compute,
            fail=self._fail_follower,
            metrics=metrics,
            link=around.link,
            clock=around.clock,
        )
        if self.answers is not None:
            self.answers.fill(opened.warmed.answers)
        self.quick_hits = self._make_quick_hits()
        self._fallback = self._make_fallback()
        self.limit, self.sizes = opened.limit(), opened.sizes
        self.large = LargeCalls(self.signature, self.sizes, self.large_done)
        self._whole_rows = _whole_rows(self.signature, self.sizes)
        self.batcher = _batcher(opened, self, around)

    @property
    def is_up(self) -> bool:
        """Whether its engine would answer now: one in a process of its own may be starting again."""
        return self.engine.is_up if isinstance(self.engine, Supervised) else True

    @property
    def out_of_memory(self) -> int:
        """How many batches did not fit the device's memory, and were cut or failed."""
        return self._executor.out_of_memory

    @property
    def restarts(self) -> int:
        """How often the engine's own process had to be started again."""
        return self.engine.restarts if isinstance(self.engine, Supervised) else 0

    async def settle(self) -> None:
        """Before the first call: what a thread needs that runs this engine is made ready now."""
        if isinstance(self.engine, ThreadBound):
            await self.batcher.settle()

    # The way in

    def infer(self, call: Call) -> None:
        """Answer or fail the call, now or later. Never raises."""
        now = call.arrived = self._clock()
        call.deadline = now + call.timeout
        self.in_flight += 1
        if (
            self._faults is not None
            and WARMUP_HEADER not in call.headers
            and self._struck(call, self._faults)
        ):
            return
        self._look_up(call, now)

    @property
    def would_shed(self) -> bool:
        """Whether some request would be shed now, and none of them could be answered from a cache."""
        has_cache = self.answers is not None and self.answers.memory is not None
        return self.limit.is_near(self.computing) and not has_cache and self._fallback is None

    def refuses(self, priority: int) -> bool:
        """Whether a request of this priority would be shed now."""
        return not self.limit.admits(self.computing, priority)

    def shed_unread(self) -> Unavailable:
        """Count a request shed before it was parsed."""
        self.metrics.drop("shed")
        return _too_many()

    def _look_up(self, call: Call, now: float) -> None:
        if not call.rows:
            self._hand_out([call], nothing(self.signature))
            return
        if self.answers is None or not self.answers.settle(call, now):
            self._compute(call)

    def _compute(self, call: Call) -> None:
        """Past the caches: this call needs the engine."""
        try:
            if call.rows > self._whole_rows and self.large.takes(call):
                self.batcher.submit_large(call)
                return
            if not self.limit.admits(self.computing, call.priority):
                raise _too_many()
            shed = self.batcher.submit(call)
        except SlipwayError as error:
            self.metrics.drop("too_large" if isinstance(error, TooLarge) else "shed")
            self._fail(call, error)
            return
        self.computing[call.priority] += 1
        if shed:
            self._shed(shed)

    def _struck(self, call: Call, faults: Faults) -> bool:
        if faults.strikes():
            fault = ModelFault("SLIPWAY_FAULTS asked for this error", remedy="unset SLIPWAY_FAULTS")
            self._loop.call_later(faults.delay_seconds, self._fail, call, fault)
        elif faults.delay_seconds:
            self._loop.call_later(faults.delay_seconds, self._look_up, call, call.arrived)
        else:
            return False
        return True

    # The way back

    def batch_done(self, executed: list[Executed], rows: int, seconds: float) -> None:
        """A batch came back from the engine (`batching.Deliver`)."""
        calls = 0
        for part in executed:
            calls += len(part.calls)
            for call in part.calls:
                self.computing[call.priority] -= 1
                self.limit.observe(call.started - call.arrived)
            if isinstance(part.outcome, SlipwayError):
                for call in part.calls:
                    self._fail(call, part.outcome)
            else:
                self._hand_out(part.calls, part.outcome)
        self.metrics.batch(calls, rows, seconds)

    def calls_died(self, calls: list[Call]) -> None:
        """Expired or abandoned in the queue (`batching.Deliver`)."""
        for call in calls:
            self.computing[call.priority] -= 1
            self.metrics.drop("abandoned" if call.is_abandoned else "expired")
            self._fail(call, Abandoned() if call.is_abandoned else Expired())

    def large_done(self, call: Call, outcome: BatchOutputs | SlipwayError, seconds: float) -> None:
        """A call that was computed in pieces, or not to its end (`large.Done`). Never raises."""
        if isinstance(outcome, BatchOutputs):
            self._hand_out([call], outcome)
        else:
            reason = _DROPPED.get(status_of(outcome))
            if reason is not None:
                self.metrics.drop(reason)
            self._fail(call, outcome)
        if seconds:
            self.metrics.batch(1, call.rows, seconds)

    def _shed(self, calls: list[Call]) -> None:
        for call in calls:
            self.computing[call.priority] -= 1
            self.metrics.drop("shed")
            self._fail(call, Unavailable("shed for a request of higher priority", remedy="try again later"))

    def _hand_out(self, calls: Sequence[Call], outputs: BatchOutputs) -> None:
        first = 0
        for call in calls:
            # What one answer breaks on is its own: the rest of the batch and of the queue gets theirs.
            try:
                try:
                    call.answered(outputs, first)
                finally:
                    if self.answers is not None:
                        self.answers.answered(call, outputs, first, self._clock())
            except Exception:
                log.exception(_BROKE)
            first += call.rows

    def _fail(self, call: Call, error: SlipwayError) -> None:
        """Fail a call and those who wait for its answer. Never raises."""
        if self.answers is not None:
            self.answers.failed(call, error)
        self._fail_alone(call, error)

    def _fail_follower(self, call: Call, error: SlipwayError) -> None:
        if isinstance(error, Expired):
            self.metrics.drop("expired")
        self._fail_alone(call, error)

    def _fail_alone(self, call: Call, error: SlipwayError) -> None:
        try:
            if self._fallback is None or not isinstance(error, COVERED) or not self._fallback.answer(call):
                call.failed(error)
        except Exception:
            log.exception(_BROKE)

    def record(self, call: Call, code: int, outputs: BatchOutputs | None = None, first: int = 0) -> None:
        """Count a finished request; log and trace it where that is wanted."""
        self.in_flight -= 1
        now, metrics = self._clock(), self.metrics
        metrics.finished(code)
        metrics.total.observe(now - call.arrived)
        if code != 200:
            metrics.failed_seconds += now - call.arrived
        if call.started:
            metrics.queued.observe(call.started - call.arrived)
        if self.log is not None:
            self.log.record(call, code, now - call.arrived, outputs, first)
        if self._tracer is not None:
            self._tracer.finished(call, call.headers, self.name, code, now)

    def record_failure(self, call: Call, error: SlipwayError) -> None:
        """Count a failed request; the pod's and the model's own failures are logged with the request's id."""
        code = status_of(error)
        self.record(call, code)
        if code == ModelFault.status:
            fields = {"model": self.name, "version": self.version, "code": code}
            self._failures.failed(error.problem, call.headers, **fields)

    # Making and ending

    def close(self) -> None:
        """Only when nothing is in flight."""
        self.batcher.close()
        self.engine.close()
        if self.log is not None:
            self.log.close()

    def _make_quick_hits(self) -> QuickHits | None:
        is_watched = self._faults is not None or self.log is not None or self._tracer is not None
        if self.answers is None or self.answers.memory is None or is_watched or not self.signature.is_fixed:
            return None
        return QuickHits(self.answers.memory, self.writer, self.metrics, self._clock)

    def _make_fallback(self) -> FallbackAnswers | None:
        wish = self.manifest.settings.fallback
        if wish is None:
            return None
        return FallbackAnswers(wish, self.signature, self.metrics, stale=self._stale, relay=self._relay)

    def _stale(self, call: Call) -> BatchOutputs | None:
        return self.answers.stale(call) if self.answers is not None else None

    def _relay(self, name: str, call: Call) -> None:
        try:
            other = self._find(name)
            if other is self or other.signature != self.signature:
                raise ModelFault(f"fallback {name} does not take and give the same tensors")
        except SlipwayError as error:
            call.source = b""
            call.failed(error)
            return
        other.infer(RelayedCall(call, other.signature, other.record))


def response_headers(manifest: Manifest, slot: str) -> bytes:
    """The headers every answer of this model carries, so that callers and the controller know who spoke."""
    lines = [f"x-slipway-bundle: {manifest.id}", f"x-slipway-version: {manifest.version}"]
    if slot:
        lines.append(f"x-slipway-slot: {slot}")
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def _request_log(manifest: Manifest, around: Surroundings) -> RequestLogWriter | None:
    settings = manifest.settings.request_log
    if settings is None or around.request_log is None:
        return None
    # Imported here: pods that log nothing need not load it.
    from serving.pod.recording.writer import RequestLogWriter, utc_now

    return RequestLogWriter(around.request_log, manifest, settings, chance=around.chance, now=utc_now)


def _too_many() -> Unavailable:
    return Unavailable("more requests than this model can answer in time", remedy="try again later")


def _whole_rows(signature: Signature, sizes: Sizes) -> int:
    """A call of so many rows is certainly computed whole."""
    if not signature.is_batched:
        return 1
    # Where rows have lengths, few may be many.
    return sizes.batch_rows if signature.is_static else 0


def _batcher(opened: OpenedModel, model: ServedModel, around: Surroundings) -> Batcher:
    settings, warmed = opened.manifest.settings, opened.warmed
    # A process may hang, and the event loop may not.
    is_elsewhere = isinstance(opened.engine, Supervised)
    short = 0 if is_elsewhere else min(warmed.short_batch_rows, settings.max_batch_size)
    rows = short or settings.max_batch_size
    return Batcher(
        opened.executor,
        CallQueue(settings.max_queue_rows),
        Patience(settings.max_queue_delay_ms / 1000, warmed.fixed_seconds, warmed.row_seconds),
        model,
        max_rows=rows if model.signature.is_batched else 1,
        # Where batches run: docs/decisions/0022.
        inline=short > 0,
        loop=around.loop,
        clock=around.clock,
        large=model.large,
    )
