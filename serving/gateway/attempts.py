"""What Envoy counts of attempts only when told to: `slipway.<what>.service.<name>.host.<address>`.

- `slow`: the endpoint took longer than the latency objective. Counted from the last byte of the request to
  the answer's first, and to its last where that can only be the endpoint's doing: what a client takes to send
  and to read is not the endpoint's slowness.
- `broken`: an answer that began well and did not end. Envoy's own count of successes has it.
- `refused`: a well-formed request that the model itself refuses: the pod says so in a header.
- `repeated`: the refused ones that stable is asked next. Envoy counts what it repeats among its errors.
- `malformed`: any other 4xx, and what says the same in gRPC.
- `limited`: the malformed ones that were too large, too slow to arrive, or too many, or that asked an arm for
  what it does not hold (404): how many of these an arm gets says nothing about its version.
- `abandoned`: the client gave up before an answer began, later than the objective. Envoy counts it nowhere.

And two distributions of how long attempts took, where `slow` alone says too little:

- `answered`: from the last byte of the request to the answer's first, in microseconds.
- `unanswered`: how long those waited that got no answer in the objective's time, in milliseconds.

All are of attempts, so what was then repeated elsewhere counts too. Healthy traffic costs two headers.
Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/intro/arch_overview/advanced/attributes. Here they are
seen from the endpoint: `request.total_size` is what came from it, `response.size` what was sent to it.
"""

from __future__ import annotations

from serving.envoy_names import (
    ABANDONED,
    ANSWERED,
    BROKEN,
    MALFORMED,
    REFUSED,
    REPEATED,
    SLOW,
    UNANSWERED,
    UNINFORMATIVE,
)
from serving.gateway.xds import Message, extension, typed
from serving.types import REFUSED_HEADER

# "false": never send it twice.
IDEMPOTENT = "x-slipway-idempotent"

# Only formatted text has these two times, and expressions read text from headers only. Never sent to clients.
WAITED, SENT = "x-slipway-waited", "x-slipway-sent"
# Who refused it, and in which arm: a retry policy can ask for one header only.
REFUSED_BY = "x-slipway-refused-by"
BY_THE_CANDIDATE = "model@candidate"
HEADERS = (WAITED, SENT, REFUSED_BY)

# Smaller answers fit into Envoy's buffers (1 MiB), so a client that does not read cannot hold them up.
_BUFFERED_BYTES = 512 * 1024

# Reset or cut off by the endpoint, or against the protocol.
_BREAKS = ["UC", "UR", "UPE"]

_LABELS = "xds.upstream_host_metadata.filter_metadata['slipway']"
_OBJECTIVE, _NEARLY_THE_LIMIT = f"duration({_LABELS}['slow'])", f"duration({_LABELS}['limit'])"
_ANSWERED = f"('{SENT}' in response.headers)"
_TOOK = f"(request.duration - duration(response.headers['{SENT}']))"
_HELD_UP_BY_NOBODY = f"(request.total_size < {_BUFFERED_BYTES})"
_GRPC = (
    "('content-type' in request.headers && request.headers['content-type'].startsWith('application/grpc'))"
)
# Without a length only a message that is sent in one piece is taken for whole.
_WHOLE = (
    "('content-length' in request.headers ?"
    " response.size >= int(request.headers['content-length']) :"
    f" (request.method == 'GET' || {_GRPC}))"
)

_IS_REFUSED = f"'{REFUSED_HEADER}' in response.headers"
_IS_ASKED_ONCE = (
    f"('{IDEMPOTENT}' in request.headers && request.headers['{IDEMPOTENT}'].matches('^(?i)false$'))"
)
_IS_REPEATED = f"{_IS_REFUSED} && 'repeats' in {_LABELS} && !{_IS_ASKED_ONCE}"
# INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION,
# ABORTED, OUT_OF_RANGE and UNAUTHENTICATED: what Envoy takes for a success (UNIMPLEMENTED it does not).
_CALLERS_FAULTS = "[3, 5, 6, 7, 8, 9, 10, 11, 16]"
_IS_MALFORMED = (
    f"has(response.code) && !({_IS_REFUSED}) && ((response.code >= 400 && response.code < 500)"
    f" || ({_GRPC} && has(response.grpc_status) && response.grpc_status in {_CALLERS_FAULTS}))"
)
# NOT_FOUND (another version than this arm's was named) and RESOURCE_EXHAUSTED.
_NO_EVIDENCE = "[5, 8]"
_IS_UNINFORMATIVE = (
    f"has(response.code) && !({_IS_REFUSED}) && (response.code in [404, 408, 413, 429]"
    f" || ({_GRPC} && has(response.grpc_status) && response.grpc_status in {_NO_EVIDENCE}))"
)

_IS_SLOW = (
    f"({_ANSWERED} && (duration(response.headers['{WAITED}']) > {_OBJECTIVE}"
    f" || ({_HELD_UP_BY_NOBODY} && {_TOOK} > {_OBJECTIVE})))"
    f" || (!{_ANSWERED} && {_WHOLE} && request.duration > {_OBJECTIVE})"
)
# Of gRPC Envoy counts a success only when the answer has ended.
_BEGAN_WELL = f"has(response.code) && response.code < 500 && !{_GRPC}"
# Known once the answer's last byte is there: what lasted as long and ended is slow, and its caller has it.
_ENDED = "has(response.backend_latency)"
_STANDS_STILL = f"{_BEGAN_WELL} && !{_ENDED} && {_HELD_UP_BY_NOBODY} && {_TOOK} > {_NEARLY_THE_LIMIT}"
# What lasted until the limit ended by the limit, and Envoy has counted it.
_IS_ABANDONED = (
    f"!has(response.code) && response.flags == 0 && {_WHOLE}"
    f" && request.duration > {_OBJECTIVE} && request.duration < {_NEARLY_THE_LIMIT}"
)


def counters() -> list[Message]:
    """For the router's log of attempts."""
    cut_off = {"and_filter": {"filters": [{"response_flag_filter": {"flags": _BREAKS}}, _where(_BEGAN_WELL)]}}
    return [
        _counter(SLOW, _where(_IS_SLOW)),
        _counter(BROKEN, {"or_filter": {"filters": [cut_off, _where(_STANDS_STILL)]}}),
        _counter(ABANDONED, _where(_IS_ABANDONED)),
        _counter(REFUSED, _where(_IS_REFUSED)),
        _counter(REPEATED, _where(_IS_REPEATED)),
        _counter(MALFORMED, _where(_IS_MALFORMED)),
        _counter(UNINFORMATIVE, _where(_IS_UNINFORMATIVE)),
    ]


def distributions() -> list[Message]:
    """For the router's log of attempts. Without the second kind, an endpoint that hangs would look quick."""
    unanswered = f"!{_ANSWERED} && {_WHOLE} && request.duration > {_OBJECTIVE}"
    return [
        _distribution(ANSWERED, "Microseconds", "%COMMON_DURATION(US_TX_END:US_RX_BEG:us)%", _ANSWERED),
        _distribution(UNANSWERED, "Milliseconds", "%DURATION%", unanswered),
    ]


def filters() -> list[Message]:
    """For the router, around each attempt: they note in its answer how long it took, and who refused it."""
    spans = {WAITED: "US_TX_END:US_RX_BEG", SENT: "US_TX_BEG:US_TX_END"}
    values = {header: f"%COMMON_DURATION({span}:us)%us" for header, span in spans.items()}
    values[REFUSED_BY] = f"%RESP({REFUSED_HEADER})%@%UPSTREAM_METADATA(slipway:arm)%"
    noted = [
        {
            "append": {
                "header": {"key": header, "value": value},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        }
        for header, value in values.items()
    ]
    return [
        extension(
            "envoy.filters.http.header_mutation",
            typed(
                "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
                mutations={"response_mutations": noted},
            ),
        ),
        extension(
            "envoy.filters.http.upstream_codec",
            typed("envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"),
        ),
    ]


def _counter(name: str, chosen: Message) -> Message:
    return _kept(chosen, counters=[{"stat": _named(name), "value_fixed": 1}])


def _distribution(name: str, unit: str, value: str, expression: str) -> Message:
    histogram = {"stat": _named(name), "unit": unit, "value_format": value}
    return _kept(_where(expression), histograms=[histogram])


def _kept(chosen: Message, **stats: list[Message]) -> Message:
    config = typed(
        "envoy.extensions.access_loggers.stats.v3.Config", stats_scope={"prefix": "slipway"}, **stats
    )
    return {**extension("envoy.access_loggers.stats", config), "filter": chosen}


def _named(name: str) -> Message:
    tags = {"service": "%UPSTREAM_CLUSTER%", "host": "%UPSTREAM_HOST%"}
    return {"name": name, "tags": [{"name": tag, "value_format": value} for tag, value in tags.items()]}


def _where(expression: str) -> Message:
    config = typed("envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=expression)
    return {"extension_filter": extension("envoy.access_loggers.extension_filters.cel", config)}
