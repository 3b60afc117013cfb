"""Envoy routes (RDS): which requests go to which service, and which may be asked twice.

`/v2/models/<service>/...` goes to the service. With `x-slipway-arm: candidate` it goes to the candidate at
any weight; with `x-slipway-idempotent: false` (or a spec that says so) it is sent exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from serving.gateway.clusters import PREVIEW_SUFFIX, RETRIES, RETRYING_SUFFIX
from serving.gateway.xds import Message, discovery, seconds, typed
from serving.types import Route, RouteSettings

NAME = "models"

# A request body up to this size is kept so that it can be sent again.
_REPLAYABLE_BYTES = 64 * 1024 * 1024
_NAMES_SHOWN = 20


def render(routes: Iterable[Route]) -> bytes:
    """The RDS file for `routes`."""
    known = list(routes)
    host: Message = {
        "name": "all",
        "domains": ["*"],
        "include_attempt_count_in_response": True,
        "request_body_buffer_limit": _REPLAYABLE_BYTES,
        "response_headers_to_add": [_ANSWERED_BY],
        "routes": [*chain.from_iterable(_of_service(route) for route in known), *_of_gateway(known)],
    }
    return discovery([typed("envoy.config.route.v3.RouteConfiguration", name=NAME, virtual_hosts=[host])])


def _of_service(route: Route) -> list[Message]:
    return [_preview(route), _asked_once(route), _live(route)]


def _preview(route: Route) -> Message:
    match = _match(route.service, "x-slipway-arm", "candidate")
    if not route.candidate:
        return {"match": match, **_answer(404, f"{route.service} has no candidate now")}
    action = {"cluster": route.service + PREVIEW_SUFFIX, "timeout": _attempt(route.settings)}
    return {"match": match, "route": action}


def _asked_once(route: Route) -> Message:
    match = _match(route.service, "x-slipway-idempotent", "false")
    return {"match": match, "route": _once(route)}


def _live(route: Route) -> Message:
    if not route.settings.idempotent:
        return {"match": _match(route.service), "route": _once(route)}
    timeout = seconds((RETRIES + 1) * route.settings.timeout_ms / 1000 + 1)
    action = {
        **_once(route),
        "cluster": route.service + RETRYING_SUFFIX,
        "timeout": timeout,
        "retry_policy": _retry_policy(route.settings),
    }
    return {"match": _match(route.service), "route": action}


def _once(route: Route) -> Message:
    action: Message = {"cluster": route.service, "timeout": _attempt(route.settings)}
    if route.split.mirrored and route.candidate:
        action["request_mirror_policies"] = [{"cluster": route.service + PREVIEW_SUFFIX}]
    return action


def _retry_policy(settings: RouteSettings) -> Message:
    """Ask again, soon; where, the retrying cluster says (DESIGN.md, decision 2)."""
    return {
        "retry_on": "5xx,reset,connect-failure,refused-stream",
        "num_retries": RETRIES,
        "per_try_timeout": _attempt(settings),
        "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.050s"},
    }


def _attempt(settings: RouteSettings) -> str:
    return seconds(settings.timeout_ms / 1000)


def _match(service: str, header: str = "", value: str = "") -> Message:
    match: Message = {"path_separated_prefix": f"/v2/models/{service}"}
    if header:
        match["headers"] = [{"name": header, "string_match": {"exact": value, "ignore_case": True}}]
    return match


def _of_gateway(routes: list[Route]) -> list[Message]:
    names = [route.service for route in routes]
    shown = ", ".join(names[:_NAMES_SHOWN]) + (" and more" if len(names) > _NAMES_SHOWN else "")
    return [
        {"match": {"path": "/v2/health/live"}, **_answer(200, "")},
        {"match": {"path": "/v2/health/ready"}, **_answer(200, "")},
        {
            "match": {"prefix": "/v2/models/"},
            **_answer(404, f"unknown model; this gateway serves: {shown or 'none yet'}"),
        },
        {"match": {"prefix": "/"}, **_answer(404, "unknown path; models are under /v2/models/<name>")},
    ]


def _answer(status: int, text: str) -> Message:
    return {"direct_response": {"status": status, **({"body": {"inline_string": text}} if text else {})}}


_ANSWERED_BY: Message = {
    "header": {"key": "x-slipway-arm", "value": "%UPSTREAM_METADATA(slipway:arm)%"},
    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
}
