"""HTTP statuses as gRPC ones. Source: https://grpc.github.io/grpc/core/md_doc_statuscodes.html"""

from __future__ import annotations

from urllib.parse import quote

from model_store.engines.errors import status_of
from model_store.errors import SlipwayError

OK = 0
CANCELLED = 1
INVALID_ARGUMENT = 3
NOT_FOUND = 5
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
INTERNAL = 13

_BY_HTTP = {
    400: INVALID_ARGUMENT,
    401: 16,
    403: 7,
    404: NOT_FOUND,
    405: UNIMPLEMENTED,
    # Not DEADLINE_EXCEEDED: the client alone is late, and Envoy would take that for a failure and repeat it.
    408: RESOURCE_EXHAUSTED,
    413: RESOURCE_EXHAUSTED,
    415: UNIMPLEMENTED,
    429: RESOURCE_EXHAUSTED,
    499: CANCELLED,
    501: UNIMPLEMENTED,
    503: 14,
    504: 4,
}


def grpc_status(error: SlipwayError) -> int:
    """UNAVAILABLE for a full pod, INVALID_ARGUMENT for a mistake, INTERNAL for the pod's own faults."""
    return _BY_HTTP.get(status_of(error), INTERNAL)


def grpc_message(error: SlipwayError) -> bytes:
    """Percent-encoded as the protocol wants it, bounded because it travels in a header."""
    text = f"{error.problem} ({error.remedy})"[:1000]
    return quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()


def read_timeout_header(value: bytes | None) -> float:
    """Seconds of a `grpc-timeout` header ("100m"); infinity without one or when it makes no sense."""
    if value is None or not value[:-1].isdigit() or len(value) > 9:
        return float("inf")
    return int(value[:-1]) * _UNITS.get(value[-1:], float("inf"))


_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
