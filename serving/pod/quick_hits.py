"""The commonest hit, without making a call of it: JSON in and out, inputs told apart by their bytes.

A hit that becomes a call costs a fifth more. Only where nothing looks at single calls: no request log, no
traces, no faults.
"""

from __future__ import annotations

from collections.abc import Callable

from serving.pod.cache.memory import MemoryCache
from serving.pod.codec.request import InferRequest
from serving.pod.codec.response import ResponseWriter
from serving.pod.telemetry import ModelMetrics


class QuickHits:
    """Of one model with a cache; `clock` is the pod's."""

    def __init__(
        self, memory: MemoryCache, writer: ResponseWriter, metrics: ModelMetrics, clock: Callable[[], float]
    ) -> None:
        self._memory, self._writer, self._metrics, self._clock = memory, writer, metrics, clock

    def answer(self, request: InferRequest) -> bytes | None:
        """The body with all outputs, counted as answered; None sends the request the long way."""
        identity = request.data[0]
        if request.outputs is not None or type(identity) is not bytes:
            return None
        began = self._clock()
        outputs = self._memory.hit(identity, began)
        if outputs is None:
            return None
        body = self._writer.plain(outputs, 0, request.shapes[0][0], request.id)
        self._metrics.finished(200)
        self._metrics.total.observe(self._clock() - began)
        return body
