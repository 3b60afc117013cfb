"""Which requests the gateway admits: the inference methods by name, over REST and gRPC, and nothing else.

The routes of `refusals` stand before all others. What is not named here is answered by the gateway itself: a
404 (gRPC: UNIMPLEMENTED), a 405 for another HTTP method, a 403 (PERMISSION_DENIED) for the model repository.
So is gRPC on a path of REST, a 415: Envoy would count its answers, which lack trailers, as errors.
Source of the names: https://github.com/kserve/open-inference-protocol, Triton's extensions for configuration
and statistics, and grpc's own services for health and reflection.
"""

from __future__ import annotations

import re

from serving.gateway.replies import IS_GRPC
from serving.gateway.xds import Message

GRPC_SERVICE = "inference.GRPCInferenceService"
# They name a model, and go to its pods.
GRPC_METHODS = (
    "ModelInfer",
    "ModelStreamInfer",
    "ModelReady",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
)
# They name none, and any pod can answer.
SERVER_METHODS = ("ServerLive", "ServerReady", "ServerMetadata")
HEALTH_CALLS = "/grpc.health.v1.Health/"
CHECK, WATCH = HEALTH_CALLS + "Check", HEALTH_CALLS + "Watch"
REFLECTIONS = tuple(
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha")
)

# What may follow a model's path, and its version's. An empty one is the model's metadata.
REST_POSTS = ("/infer", "/invocations")
# MLflow's own path, which names no model: the host does.
INVOCATIONS = "/invocations"
REST_READS = ("", "/ready", "/config", "/stats")
# Read too, and answered by the gateway, or by any pod.
LIVE, READY = "/v2/health/live", "/v2/health/ready"
SERVER_READS = ("/v2", "/v2/")

# What is let in at a model's paths and is no inference, once the routes below have refused the rest.
IS_READ: Message = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}
GRPC_READS: Message = {
    "name": ":path",
    "string_match": {"exact": f"/{GRPC_SERVICE}/ModelInfer"},
    "invert_match": True,
}

_REPOSITORIES = ("/v2/repository", f"/{GRPC_SERVICE}/Repository")


def refusals() -> list[Message]:
    """Routes that answer whatever is not admitted. Envoy has normalised the path they look at."""
    reads = (_of_models(REST_READS), *map(re.escape, (LIVE, READY, *SERVER_READS)))
    posts = (_of_models(REST_POSTS), re.escape(INVOCATIONS))
    unknown = [_unless(":path", _path(each)) for each in (*reads, *posts, *_calls())]
    words = (
        "unknown path or method; models are under /v2/models/<name> and in the gRPC service "
        f"{GRPC_SERVICE}, with the methods of inference"
    )
    return [
        *(_of_repository(prefix) for prefix in _REPOSITORIES),
        _refused(501, words, IS_GRPC, *unknown),
        _refused(404, words, *unknown),
        _refused(
            415,
            "this path is REST's, and takes no application/grpc: send JSON here, or call the gRPC service "
            f"{GRPC_SERVICE}",
            _where("content-type", {"prefix": "application/grpc", "ignore_case": True}),
            *(_unless(":path", _path(each)) for each in _calls()),
        ),
        *(_of_another_method(each, "POST") for each in posts),
        *(_of_another_method(each, "GET", "HEAD") for each in reads),
    ]


def _calls() -> tuple[str, ...]:
    """gRPC paths. Each pattern is small, as Envoy wants them."""
    inference = (rf"/{re.escape(GRPC_SERVICE)}/({'|'.join(of)})" for of in (GRPC_METHODS, SERVER_METHODS))
    return (*inference, *map(re.escape, (CHECK, WATCH, *REFLECTIONS)))


def _of_repository(prefix: str) -> Message:
    return _refused(
        403,
        "the model repository is not reached through the gateway: it is managed at the --management address "
        "of each pod",
        _where(":path", {"prefix": prefix}),
    )


def _of_another_method(path: str, *allowed: str) -> Message:
    method = {"safe_regex": {"regex": "|".join(allowed)}}
    refused = _refused(
        405, f"use {' or '.join(allowed)} here", _where(":path", _path(path)), _unless(":method", method)
    )
    header = {"header": {"key": "allow", "value": ", ".join(allowed)}}
    return {**refused, "response_headers_to_add": [header]}


def _of_models(endings: tuple[str, ...]) -> str:
    return rf"/v2/models/[^/?#]+(/versions/[^/?#]+)?({'|'.join(map(re.escape, endings))})"


def _path(pattern: str) -> Message:
    """Of `:path`, which has the query too. Envoy compiles small patterns only, so each is one of its own."""
    return {"safe_regex": {"regex": rf"{pattern}(\?.*)?"}}


def _where(header: str, match: Message) -> Message:
    return {"name": header, "string_match": match}


def _unless(header: str, match: Message) -> Message:
    return {**_where(header, match), "invert_match": True}


def _refused(status: int, text: str, *headers: Message) -> Message:
    return {
        "match": {"prefix": "/", "headers": list(headers)},
        "direct_response": {"status": status, "body": {"inline_string": text}},
    }
