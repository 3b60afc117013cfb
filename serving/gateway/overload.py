"""What Envoy may hold for its callers: memory and connections, and what it gives up when it holds more.

The first 16 MiB of a body are kept until its answer, so that a failed attempt can be repeated: who sends many
would have Envoy grow until the system ends it, and everybody's requests with it. So those that hold most or
stand still are cut off first, and new requests are refused only if that was not enough.
Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/operations/overload_manager/overload_manager
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from model_store.errors import Permanent
from serving.gateway.xds import Message, typed

HEAP, CONNECTIONS = "SLIPWAY_ENVOY_HEAP_MB", "SLIPWAY_ENVOY_CONNECTIONS"
_HEAP_MB, _CONNECTIONS = 1024, 10_000
# Of what a container may take, for Envoy's heap: the rest is its program, stacks and sockets.
_SHARE = 0.8
_CGROUP = Path("/sys/fs/cgroup/memory.max")
_FIXED_HEAP = "envoy.resource_monitors.fixed_heap"
_DOWNSTREAM = "envoy.resource_monitors.global_downstream_max_connections"
# Streams that hold a MiB or more are known by what they hold.
_TRACKED_FROM = 20

# Windows stay Envoy's: a stream's is also what filters may hold of it, and large messages would be refused.
HTTP2: Message = {"max_concurrent_streams": 1024}
# Sent slowly, heads hold a connection each.
HEADERS_WITHIN = "10s"
# As attempts' timing counts on it (`serving.gateway.attempts`).
BUFFER_BYTES = 1 << 20

_RISING: Message = {"scaling_threshold": 0.75, "saturation_threshold": 0.95}
# Who neither sends nor takes anything is cut off the sooner, the less room there is.
_IMPATIENT = typed(
    "envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
    timer_scale_factors=[
        {"timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": "2s"},
        {"timer": "HTTP_DOWNSTREAM_STREAM_IDLE", "min_timeout": "2s"},
    ],
)


def of_bootstrap(environ: Mapping[str, str]) -> Message:
    """What a bootstrap says of it. Raises `Permanent` for a variable that is no number."""
    monitors = {
        _FIXED_HEAP: typed(
            "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
            max_heap_size_bytes=heap_mb(environ) << 20,
        ),
        _DOWNSTREAM: typed(
            "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            max_active_downstream_connections=_number(environ, CONNECTIONS, _CONNECTIONS),
        ),
    }
    actions = [
        _action("shrink_heap", threshold={"value": 0.7}),
        # Envoy can do this to HTTP/2 alone.
        _action("reset_high_memory_stream", scaled=_RISING),
        {**_action("reduce_timeouts", scaled=_RISING), "typed_config": _IMPATIENT},
        _action("disable_http_keepalive", threshold={"value": 0.9}),
        _action("stop_accepting_requests", threshold={"value": 0.97}),
    ]
    return {
        "overload_manager": {
            "refresh_interval": "0.25s",
            "resource_monitors": [{"name": name, "typed_config": each} for name, each in monitors.items()],
            "actions": actions,
            "buffer_factory_config": {"minimum_account_to_track_power_of_two": _TRACKED_FROM},
        }
    }


def heap_mb(environ: Mapping[str, str], limit: Path = _CGROUP) -> int:
    """Of this Envoy: what is said, else what its container may take, else a GiB."""
    if environ.get(HEAP):
        return _number(environ, HEAP, _HEAP_MB)
    try:
        allowed = int(limit.read_text())
    except (OSError, ValueError):
        return _HEAP_MB
    return min(int(_SHARE * allowed) >> 20, _HEAP_MB)


def _action(name: str, **trigger: Message) -> Message:
    return {"name": f"envoy.overload_actions.{name}", "triggers": [{"name": _FIXED_HEAP, **trigger}]}


def _number(environ: Mapping[str, str], name: str, usual: int) -> int:
    said = environ.get(name, "")
    if not said:
        return usual
    if not said.isdecimal() or int(said) == 0:
        raise Permanent(f"{name}={said!r} is no number above 0", remedy=f"leave it out, for {usual}")
    return int(said)
