"""Envoy routes (RDS): which requests go to which service, and which may be asked twice.

`/v2/models/<service>/...` goes to the service, and so does a gRPC call that names it (`gateway.grpc`), and
MLflow's `/invocations` at a host that is called `<service>` or `<service>.<domain>`. With
`x-slipway-arm: candidate` and a token (`gateway.preview`) it goes to the candidate at any weight; with
`x-slipway-idempotent: false` (or a spec that says so) it is sent exactly once. Who names a version gets that
one, whatever the weights are (`gateway.versions`), the candidate's only by such a token while others are
given it by lot. What only reads of a model goes to stable alone and is no evidence of either arm. What is
no method of inference is refused before (`methods`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import chain

from serving.envoy_names import PREVIEW_SUFFIX, RETRYING_SUFFIX, STREAMS_SUFFIX
from serving.gateway import attempts, authentication, grpc, limits, methods, preview, versions
from serving.gateway.clusters import (
    ANY,
    RETRIES,
    RETRIES_BESIDE_A_CANDIDATE,
)
from serving.gateway.xds import Message, discovery, seconds, typed
from serving.types import Route, RouteSettings

NAME = "models"

# A host that is called as the service, with a domain or a port behind.
_HOST_BEGINS, _HOST_ENDS = "(?i)", "([.:].*)?"
# A request body up to this size is kept so that it can be sent again.
# Of one request, to be asked again; who sends more is answered by the first attempt.
REPLAYABLE_BYTES = 16 * 1024 * 1024
_NAMES_SHOWN = 20
_NO_RIGHT = (
    "only who has a right to it asks a candidate past its weight: send the header"
    f" {preview.TOKEN_HEADER} with what `slipway preview-token MODEL` prints"
)
_IDLE_STREAM = "300s"
# Of what a client may listen to for as long as it lives: nothing has to come on it.
_LASTING: Message = {"timeout": "0s", "idle_timeout": "3600s"}
# What a pod answers out of hand, without its model.
_AT_ONCE: Message = {"timeout": "5s"}
_SOON: Message = {"base_interval": "0.010s", "max_interval": "0.050s"}
_UNREACHED = "reset-before-request,connect-failure,refused-stream"


def render(routes: Iterable[Route]) -> bytes:
    """The RDS file for `routes`."""
    known = sorted(routes, key=lambda route: in_order_asked(route.service))
    buckets = limits.buckets(known)
    host: Message = {
        "name": "all",
        "domains": ["*"],
        "include_attempt_count_in_response": True,
        "request_body_buffer_limit": REPLAYABLE_BYTES,
        "response_headers_to_add": [_ANSWERED_BY],
        "response_headers_to_remove": list(attempts.HEADERS),
        **({"typed_per_filter_config": buckets} if buckets else {}),
        "routes": [
            *methods.refusals(),
            *chain.from_iterable(_of_service(route) for route in known),
            *_of_gateway(known),
        ],
    }
    return discovery([typed("envoy.config.route.v3.RouteConfiguration", name=NAME, virtual_hosts=[host])])


def in_order_asked(service: str) -> tuple[int, str]:
    """Where a service's routes stand. A host `a.b` would be that of a model `a` in a domain `b`, too: a model
    that is called so comes first.
    """
    return -service.count("."), service


def _of_service(route: Route) -> list[Message]:
    asked = (*_of_protocol(route, _rest), *_of_protocol(route, _grpc), *_of_host(route))
    found = [*_health(route), _streamed(route), *asked]
    if not route.settings.api_keys:
        return found
    return [{**each, "typed_per_filter_config": authentication.required()} for each in found]


def _of_protocol(route: Route, match: _Match) -> list[Message]:
    named = [
        {"match": each, "route": _limited(route, {"cluster": cluster, **_to_one_version(route)})}
        for each, cluster in versions.elsewhere(route, match)
    ]
    named = [*_past_its_weight(route, match), *named]
    unknown = {"match": versions.unknown(route, match), **_answer(404, versions.served(route))}
    own = [*_preview(route, match), *named, unknown, _read(route, match)]
    return [*own, _asked_once(route, match), _live(route, match)]


def _of_host(route: Route) -> list[Message]:
    """What can be asked there is inference only, of no certain version. Pods are told the model's name."""
    path = {"prefix_rewrite": f"/v2/models/{route.service}{methods.INVOCATIONS}"}
    asked = (*_preview(route, _hosted), _asked_once(route, _hosted), _live(route, _hosted))
    return [{**each, "route": {**each["route"], **path}} if "route" in each else each for each in asked]


def _read(route: Route, match: _Match) -> Message:
    """All but inference. Probes would otherwise be a candidate's answers, and its promotion."""
    found = match(route.service)
    again = {
        "retry_on": f"5xx,reset,connect-failure,refused-stream,{grpc.RETRIED}",
        "num_retries": RETRIES,
        "per_try_timeout": _attempt(route.settings),
        "retry_back_off": _SOON,
    }
    action = {"cluster": _uncounted(route), "timeout": _with_repeats(route), "retry_policy": again}
    matched = {**found, "headers": [*found.get("headers", ()), _reads(found)]}
    return {"match": matched, "route": _limited(route, action)}


def _reads(match: Message) -> Message:
    return methods.GRPC_READS if "grpc" in match else methods.IS_READ


def _uncounted(route: Route) -> str:
    """The cluster for what no verdict counts: stable's, or a first version's while it is the candidate."""
    return route.service + (STREAMS_SUFFIX if route.stable or route.candidate else "")


def _to_one_version(route: Route) -> Message:
    """Asked again only where nobody was reached: there is nobody else to ask."""
    again = {"retry_on": _UNREACHED, "num_retries": RETRIES}
    return {"timeout": _attempt(route.settings), "retry_policy": again}


def _preview(route: Route, match: _Match) -> list[Message]:
    matched = match(route.service, "x-slipway-arm", "candidate")
    if not route.candidate:
        return [{"match": matched, **_answer(404, f"{route.service} has no candidate now")}]
    action = {"cluster": route.service + PREVIEW_SUFFIX, "timeout": _attempt(route.settings)}
    entitled = {"match": _entitled(route, matched), "route": _limited(route, action)}
    return [entitled, {"match": matched, **_answer(403, _NO_RIGHT)}]


def _past_its_weight(route: Route, match: _Match) -> list[Message]:
    """Who names the candidate's version while others are given it by lot."""
    named = versions.of_candidate(route, match)
    if named is None or route.split.candidate == 100:
        return []
    reads = _reads(named)
    inference = {**reads, "invert_match": not reads.get("invert_match", False)}
    named = {**named, "headers": [*named["headers"], inference]}
    action = {"cluster": route.service + PREVIEW_SUFFIX, **_to_one_version(route)}
    entitled = {"match": _entitled(route, named), "route": _limited(route, action)}
    return [entitled, {"match": named, **_answer(403, _NO_RIGHT)}]


def _entitled(route: Route, matched: Message) -> Message:
    right = {"name": preview.RIGHT_HEADER, "string_match": {"exact": route.service}}
    return {**matched, "headers": [*matched.get("headers", ()), right]}


def _asked_once(route: Route, match: _Match) -> Message:
    return {
        "match": match(route.service, attempts.IDEMPOTENT, "false"),
        "route": _limited(route, _once(route)),
    }


def _live(route: Route, match: _Match) -> Message:
    if not route.settings.idempotent:
        return {"match": match(route.service), "route": _limited(route, _once(route))}
    # The same beside a candidate: the repeats that come on top are for endpoints that refuse at once.
    action = {
        **_once(route),
        "cluster": route.service + RETRYING_SUFFIX,
        "timeout": _with_repeats(route),
        "retry_policy": _retry_policy(route),
    }
    return {"match": match(route.service), "route": _limited(route, action)}


def _limited(route: Route, action: Message) -> Message:
    counted = limits.counted_as(route)
    return {**action, "rate_limits": counted} if counted else action


def _once(route: Route) -> Message:
    action: Message = {"cluster": route.service, "timeout": _attempt(route.settings)}
    if route.split.mirrored and route.candidate:
        action["request_mirror_policies"] = [{"cluster": route.service + PREVIEW_SUFFIX}]
    return action


def _retry_policy(route: Route) -> Message:
    """Ask again, soon; where, the retrying cluster says (DESIGN.md, decision 2).

    What the candidate's model refuses, stable may answer; what stable refuses is refused.
    """
    by_header = {"name": attempts.REFUSED_BY, "string_match": {"exact": attempts.BY_THE_CANDIDATE}}
    return {
        "retry_on": f"5xx,reset,connect-failure,refused-stream,retriable-headers,{grpc.RETRIED}",
        "retriable_headers": [by_header],
        "num_retries": RETRIES_BESIDE_A_CANDIDATE if route.candidate else RETRIES,
        "per_try_timeout": _attempt(route.settings),
        "retry_back_off": _SOON,
    }


def _with_repeats(route: Route) -> str:
    return seconds((RETRIES + 1) * route.settings.timeout_ms / 1000 + 1)


def _attempt(settings: RouteSettings) -> str:
    return seconds(settings.timeout_ms / 1000)


_Match = Callable[..., Message]


def _rest(service: str, header: str = "", value: str = "") -> Message:
    match: Message = {"path_separated_prefix": f"/v2/models/{service}"}
    if header:
        match["headers"] = [_header(header, value)]
    return match


def service_of_host(match: Message) -> str:
    """The service whose name a route asks for as the host; "" where it asks for none."""
    for header in match.get("headers", ()):
        pattern = str(header.get("string_match", {}).get("safe_regex", {}).get("regex", ""))
        if header["name"] == ":authority" and pattern.startswith(_HOST_BEGINS):
            escaped = pattern.removeprefix(_HOST_BEGINS).removesuffix(_HOST_ENDS)
            return re.sub(r"\\(.)", r"\1", escaped)
    return ""


def _hosted(service: str, header: str = "", value: str = "") -> Message:
    """Names of hosts are the same in capitals and without."""
    host = {"safe_regex": {"regex": f"{_HOST_BEGINS}{re.escape(service)}{_HOST_ENDS}"}}
    named = [{"name": ":authority", "string_match": host}]
    headers = [*named, _header(header, value)] if header else named
    return {"path": methods.INVOCATIONS, "headers": headers}


def _grpc(service: str, header: str = "", value: str = "") -> Message:
    named = [_header(grpc.MODEL_HEADER, service)]
    return {
        "prefix": grpc.PREFIX,
        "headers": [*named, _header(header, value)] if header else named,
        "grpc": {},
    }


def _streamed(route: Route) -> Message:
    """A stream of requests: it lasts as long as its client wants, and nothing of it is asked twice.

    Stable's only: what fails in it is a message inside a 200, which Envoy cannot count, and it would stay
    with a candidate that was rolled back.
    """
    match = {"path": grpc.STREAM, "headers": [_header(grpc.MODEL_HEADER, route.service)], "grpc": {}}
    cluster = route.service + (STREAMS_SUFFIX if route.stable else "")
    action = {"cluster": cluster, "timeout": "0s", "idle_timeout": _IDLE_STREAM}
    return {"match": match, "route": _limited(route, action)}


def _health(route: Route) -> list[Message]:
    """grpc.health.v1 of a model, asked of stable's pods like a stream."""
    named = {"headers": [_header(grpc.MODEL_HEADER, route.service)], "grpc": {}}
    return [
        {"match": {"path": path, **named}, "route": {"cluster": _uncounted(route), **lasting}}
        for path, lasting in ((methods.CHECK, _AT_ONCE), (methods.WATCH, _LASTING))
    ]


def _header(name: str, value: str) -> Message:
    return {"name": name, "string_match": {"exact": value, "ignore_case": name != grpc.MODEL_HEADER}}


def _of_gateway(routes: list[Route]) -> list[Message]:
    names = [route.service for route in routes]
    shown = ", ".join(names[:_NAMES_SHOWN]) + (" and more" if len(names) > _NAMES_SHOWN else "")
    return [
        {"match": {"path": methods.LIVE}, **_answer(200, '{"live":true}')},
        {
            "match": {
                "prefix": methods.HEALTH_CALLS,
                "headers": [_header(grpc.MODEL_HEADER, grpc.UNREAD)],
            },
            **_answer(
                400, "the message is not a service's name alone, uncompressed: who asks for health sends one"
            ),
        },
        *_of_any_pod(),
        {
            "match": {
                "prefix": grpc.PREFIX,
                "headers": [{"name": grpc.MODEL_HEADER, "present_match": False}],
            },
            **_answer(
                400,
                f"the call names no model: name it in the message, and in the header {grpc.MODEL_HEADER} "
                "where that is streamed, compressed or over 16 MiB",
            ),
        },
        {
            "match": {"prefix": grpc.PREFIX},
            **_answer(404, f"unknown model; this gateway serves: {shown or 'none yet'}"),
        },
        {
            "match": {"path": methods.INVOCATIONS},
            **_answer(
                404,
                "no model is called as this host: ask /v2/models/<name>/invocations; this gateway serves: "
                f"{shown or 'none yet'}",
            ),
        },
        {
            "match": {"prefix": "/v2/models/"},
            **_answer(404, f"unknown model; this gateway serves: {shown or 'none yet'}"),
        },
    ]


def _of_any_pod() -> list[Message]:
    """What names no model."""
    calls = (*(grpc.PREFIX + name for name in methods.SERVER_METHODS), methods.CHECK)
    asked = {"cluster": ANY, "retry_policy": {"retry_on": _UNREACHED, "num_retries": RETRIES}}
    paths = {
        **dict.fromkeys((*methods.SERVER_READS, *calls), _AT_ONCE),
        **dict.fromkeys((*methods.REFLECTIONS, methods.WATCH), _LASTING),
    }
    return [{"match": {"path": path}, "route": {**asked, **lasting}} for path, lasting in paths.items()]


def _answer(status: int, text: str) -> Message:
    return {"direct_response": {"status": status, **({"body": {"inline_string": text}} if text else {})}}


_ANSWERED_BY: Message = {
    "header": {"key": "x-slipway-arm", "value": "%UPSTREAM_METADATA(slipway:arm)%"},
    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
}


def service_of_route(route: Message) -> str:
    """The service that a route is of; "" if it is the gateway's own."""
    match = route["match"]
    if path := match.get("path_separated_prefix"):
        return str(path).removeprefix("/v2/models/")
    if service := service_of_host(match):
        return service
    named = (header for header in match.get("headers", ()) if header["name"] == grpc.MODEL_HEADER)
    return next((str(header["string_match"]["exact"]) for header in named if "string_match" in header), "")
