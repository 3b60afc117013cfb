"""Traces from the gateway: on when OTEL_EXPORTER_OTLP_ENDPOINT names a collector (OTLP over HTTP).

Envoy starts a trace or continues its caller's, and hands it on in `traceparent`; pods with the same variable
add their part of the sampled ones (`serving.pod.tracing`). SLIPWAY_TRACE_PERCENT of requests are sampled
where the caller does not say. Source: OpenTelemetry's specification, "OTLP Exporter configuration".
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from model_store.errors import Permanent
from serving.gateway.xds import Message, extension, typed

ENDPOINT, PERCENT = "OTEL_EXPORTER_OTLP_ENDPOINT", "SLIPWAY_TRACE_PERCENT"
COLLECTOR = "otlp"
_SAMPLED_PERCENT = 1.0


def of_requests(environ: Mapping[str, str]) -> Message | None:
    """What the connection manager says of traces; None without a collector. Raises `Permanent`."""
    if not (endpoint := environ.get(ENDPOINT)):
        return None
    http_service = {
        "http_uri": {"uri": f"{endpoint.rstrip('/')}/v1/traces", "cluster": COLLECTOR, "timeout": "2s"}
    }
    config = typed(
        "envoy.config.trace.v3.OpenTelemetryConfig",
        http_service=http_service,
        service_name="slipway-gateway",
        sampler=_sampler(_percent(environ)),
    )
    return {
        "provider": extension("envoy.tracers.opentelemetry", config),
        # All of them: Envoy's own choice would overrule a caller's. The sampler chooses.
        "random_sampling": {"value": 100},
        # One span for the request, and one for each attempt: repeats are what one wants to see.
        "spawn_upstream_span": True,
    }


def collector(environ: Mapping[str, str]) -> list[Message]:
    """The cluster that traces are sent to. Raises `Permanent` when the address is not plain HTTP."""
    if not (endpoint := environ.get(ENDPOINT)):
        return []
    parts = urlsplit(endpoint)
    if parts.scheme != "http" or not parts.hostname:
        raise Permanent(
            f"{ENDPOINT}={endpoint!r} is not http://HOST:PORT",
            remedy="give the OTLP/HTTP port of a collector on this network (usually 4318)",
        )
    address = {"socket_address": {"address": parts.hostname, "port_value": parts.port or 80}}
    member = {"endpoint": {"address": address}}
    return [
        {
            "name": COLLECTOR,
            "type": "STRICT_DNS",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": COLLECTOR, "endpoints": [{"lb_endpoints": [member]}]},
        }
    ]


def _sampler(percent: float) -> Message:
    """The caller's word where it says one, else this share of new traces."""
    samplers = "envoy.extensions.tracers.opentelemetry.samplers.v3"
    share = {"numerator": round(percent * 10_000), "denominator": "MILLION"}
    own = typed(f"{samplers}.TraceIdRatioBasedSamplerConfig", sampling_percentage=share)
    parents = typed(
        f"{samplers}.ParentBasedSamplerConfig",
        wrapped_sampler=extension("envoy.tracers.opentelemetry.samplers.trace_id_ratio_based", own),
    )
    return extension("envoy.tracers.opentelemetry.samplers.parent_based", parents)


def _percent(environ: Mapping[str, str]) -> float:
    try:
        percent = float(environ.get(PERCENT, _SAMPLED_PERCENT))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise Permanent(f"{PERCENT}={environ[PERCENT]!r}", remedy="give a number from 0 to 100")
    return percent
