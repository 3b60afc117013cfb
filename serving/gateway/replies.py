"""What Envoy answers itself, in the words of the protocol that was spoken.

REST: the Open Inference Protocol's error object. gRPC: a status and a message, as a pod gives them; Envoy
by itself says UNIMPLEMENTED for a 404 and UNAVAILABLE for a 429.
Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_conn_man/local_reply
"""

from __future__ import annotations

from serving.gateway.xds import Message, extension, typed

# As `serving.pod.grpc.status` has it; what is not here is as Envoy has it. 501 is for what is no method, or
# packed in a way nobody reads.
_GRPC_STATUS = {
    400: 3,  # INVALID_ARGUMENT
    404: 5,  # NOT_FOUND
    405: 12,  # UNIMPLEMENTED
    408: 8,  # RESOURCE_EXHAUSTED: the client is late
    413: 8,  # RESOURCE_EXHAUSTED
    415: 12,
    429: 8,
    500: 13,  # INTERNAL
    501: 12,
    504: 4,
}
IS_GRPC: Message = {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
_TEXT: Message = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}
# Of these Envoy says only by the word itself what is wrong.
_WORDS = (
    "missing_host_header",
    "path_normalization_failed",
    "missing_path_rejected",
    "absolute_path_rejected",
    "upgrade_failed",
    "route_not_found",
    "route_configuration_not_found",
    "cluster_not_found",
    "low_version",
)
_JSON: Message = {**_TEXT, "content_type": "application/json"}


def formats() -> Message:
    """For the listener. The first mapper that fits is used, the error object where none does."""
    spoken = [_for_grpc(http, status) for http, status in _GRPC_STATUS.items()]
    return {
        "mappers": [*spoken, _grpc_words(), _ready(), _not_ready(), _unauthenticated(), _good(), _wordless()],
        "body_format": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
    }


def _for_grpc(http: int, status: int) -> Message:
    return {
        "filter": {"and_filter": {"filters": [{"header_filter": {"header": IS_GRPC}}, _status("EQ", http)]}},
        "body_format_override": _TEXT,
        "headers_to_add": [{"header": {"key": "grpc-status", "value": str(status)}}],
    }


def _grpc_words() -> Message:
    return {"filter": {"header_filter": {"header": IS_GRPC}}, "body_format_override": _TEXT}


def _ready() -> Message:
    """As a pod says it."""
    told = {"json_format": {"live": True, "ready": True}}
    return {"filter": _details("== 'health_check_ok_cluster_healthy'"), "body_format_override": told}


def _not_ready() -> Message:
    words = "a model has no pod that is ready: GET /v2/models/<name>/ready asks for one"
    failed = _details(".startsWith('health_check_failed')")
    return {"filter": failed, "body_format_override": {"json_format": {"error": words}}}


def _unauthenticated() -> Message:
    """RFC 9110 wants to know how."""
    words = "no known API key: send one as `x-api-key`, or `authorization: Bearer KEY`"
    return {
        "filter": _status("EQ", 401),
        "body_format_override": {"json_format": {"error": words}},
        "headers_to_add": [{"header": {"key": "www-authenticate", "value": "Bearer"}}],
    }


def _good() -> Message:
    """What the gateway itself says of its health is no error."""
    return {"filter": _status("LE", 299), "body_format_override": _JSON}


def _wordless() -> Message:
    told = {"json_format": {"error": "%RESPONSE_CODE_DETAILS%"}}
    return {"filter": _details(f"in {list(_WORDS)}"), "body_format_override": told}


def _details(condition: str) -> Message:
    """By Envoy's own word for why it answers."""
    expression = f"response.code_details{'' if condition.startswith('.') else ' '}{condition}"
    config = typed("envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter", expression=expression)
    return {"extension_filter": extension("envoy.access_loggers.extension_filters.cel", config)}


def _status(operation: str, value: int) -> Message:
    constant = {"default_value": value, "runtime_key": f"slipway.replies.{operation.lower()}.{value}"}
    return {"status_code_filter": {"comparison": {"op": operation, "value": constant}}}
