"""Optional OpenTelemetry spans, for requests whose caller (Envoy) sampled them.

On when OTEL_EXPORTER_OTLP_ENDPOINT is set and the packages opentelemetry-sdk and
opentelemetry-exporter-otlp-proto-http are there; they are no part of the pod's requirements. A request that
is not sampled costs one dictionary look-up.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from serving.pod.call import Call

log = logging.getLogger("slipway.pod")

# The last hex digit of traceparent's flags is odd.
_SAMPLED = frozenset((b"1", b"3", b"5", b"7", b"9", b"b", b"d", b"f"))


class Tracer:
    """Makes a span of a finished call, with its waiting and its computing as events."""

    def __init__(self, tracer: Any, clock: Callable[[], float]) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer, self._trace = tracer, trace
        self._propagator = TraceContextTextMapPropagator()
        # Spans want wall time; calls carry the pod's own clock.
        self._offset = time.time() - clock()

    def finished(self, call: Call, headers: Mapping[bytes, bytes], model: str, code: int, now: float) -> None:
        """Export a span if the caller's traceparent says that it is sampled."""
        parent = headers.get(b"traceparent", b"")
        if parent[-1:] not in _SAMPLED:
            return
        context = self._propagator.extract({"traceparent": parent.decode("latin-1")})
        span = self._tracer.start_span(
            f"infer {model}",
            context=context,
            kind=self._trace.SpanKind.SERVER,
            start_time=self._nanoseconds(call.arrived),
            attributes={"slipway.rows": call.rows, "http.response.status_code": code},
        )
        if call.started:
            span.add_event("compute", timestamp=self._nanoseconds(call.started))
        if code >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(end_time=self._nanoseconds(now))

    def _nanoseconds(self, at: float) -> int:
        return int((at + self._offset) * 1e9)


def make_tracer(clock: Callable[[], float], environ: Mapping[str, str] = os.environ) -> Tracer | None:
    """None without an endpoint or without the packages (said once in the log)."""
    if not environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.warning(
            "no traces: %s; pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http", error
        )
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": "slipway-pod"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracer(provider.get_tracer("slipway"), clock)
