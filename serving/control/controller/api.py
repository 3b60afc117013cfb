"""The controller over HTTP: health and metrics for anybody on this machine, acts for who has the token.

Acts, starts and rows have thread pools of their own: starts that hang on a platform, or rows on a database,
keep nobody from rolling back. An error travels as it is, `serving.control.wire_errors` says how.
"""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import orjson
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from model_store.errors import Permanent, Retryable, SlipwayError
from model_store.unwritable import unwritable
from serving.control import wire_errors
from serving.control.controller import rows_api
from serving.control.controller.exposition import ControllerCollector
from serving.control.controller.tick import Controller
from serving.control.rollbacks import RollbackRequest
from serving.control.rollout.control import ControlRequest
from serving.control.rollout.journal import state_to_json
from serving.control.traffic import NotLeading, TrafficControl
from serving.gateway.router.base import TrafficRouter
from serving.ledger.base import Ledger
from serving.types import Route as ServiceRoute

log = logging.getLogger("slipway.controller")

LONGEST_BODY = 64 * 1024
# Of rows: a release has its spec in it.
LONGEST_ROWS = 2 * 1024 * 1024
# At the same time; those that come beyond wait.
MOST_ACTS, MOST_ROWS = 16, 8

_MOST = {"acts": MOST_ACTS, "rows": MOST_ROWS}

Said = dict[str, Any]
Act = Callable[[TrafficControl, Request, Said], Any]
Answer = Callable[[Request, Said], Any]


class BodyTooLarge(Permanent):
    """The body is longer than any that makes sense."""


class Unauthorized(Permanent):
    """Who asks does not have the token."""


def build(
    controller: Controller,
    acts: TrafficControl,
    ledger: Ledger,
    router: TrafficRouter,
    *,
    token: str,
    find_problem: Callable[[], str],
    is_alive: Callable[[], bool],
    targets: Callable[[], object],
    require_last: Callable[[], None] = lambda: None,
) -> Starlette:
    """The app. `/health` is 503 with what `find_problem` says; `/targets` are pods to scrape.

    `/live` is 503 where another start would help: it does not tick. `require_last` raises, naming it, where
    another controller moves traffic: no act begins here then, for pods would be started and never used.
    `/ready` is 503 there, for whoever asks where to send callers: the others are told whom to ask.
    """
    registry = CollectorRegistry()
    registry.register(ControllerCollector(controller))

    def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    def health(_: Request) -> Response:
        if problem := find_problem():
            return Response(f"{problem}\n", 503, media_type="text/plain")
        other = stands_by_for()
        return Response(f"ok{other and ': '}{other}\n", media_type="text/plain")

    def ready(_: Request) -> Response:
        other = stands_by_for()
        return Response(f"{other or 'ok'}\n", 503 if other else 200, media_type="text/plain")

    def stands_by_for() -> str:
        try:
            require_last()
        except NotLeading as standby:
            return standby.problem
        return ""

    def live(_: Request) -> Response:
        return Response("ok\n" if is_alive() else "no tick lately\n", 200 if is_alive() else 503)

    def pods(_: Request) -> Response:
        return Response(orjson.dumps(targets()), media_type="application/json")

    doors = _Doors(token)

    def act(method: str, path: str, done: Act) -> Route:
        def acted(request: Request, said: Said) -> Any:
            if method != "GET":
                require_last()
            return done(acts, request, said)

        return doors.route(method, path, acted, limit="acts")

    def row(method: str, path: str, done: Callable[[Ledger, Request, Said], Any]) -> Route:
        return doors.route(method, path, partial(done, ledger), limit="rows", longest=LONGEST_ROWS)

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/health", health),
            Route("/live", live),
            Route("/ready", ready),
            Route("/targets", pods),
            act("POST", "/v1/rollouts", _begin),
            act("GET", "/v1/rollouts/{release}", _read),
            act("POST", "/v1/rollouts/{release}/rollback", _roll_back),
            act("POST", "/v1/rollouts-progress", _progress),
            act("POST", "/v1/rollouts/{release}/end", _end),
            act("POST", "/v1/rollouts/{release}/finish", _finish),
            act("POST", "/v1/rollouts/{release}/withdraw", _withdraw),
            act("POST", "/v1/rollouts/{release}/pause", _pause),
            act("POST", "/v1/rollouts/{release}/resume", _resume),
            act("POST", "/v1/rollouts/{release}/skip", _skip),
            act("POST", "/v1/models/{model}/rollbacks", _roll_model_back),
            act("GET", "/v1/rollbacks/{rollback}", _rollback),
            act("POST", "/v1/routes/{service}/adopt", _adopt),
            doors.route("GET", "/v1/routes", partial(_routes, router), limit="rows"),
            doors.route("GET", "/v1/routes/{service}", partial(_route, router), limit="rows"),
            *(row(*one) for one in (*rows_api.ROUTES, *rows_api.LEDGER_ROUTES)),
        ]
    )


def _begin(acts: TrafficControl, _: Request, said: dict[str, Any]) -> Any:
    return acts.begin(_text(said, "release"), _text(said, "bundle"))


def _progress(acts: TrafficControl, _: Request, said: dict[str, Any]) -> Any:
    names = said.get("releases")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Permanent("releases is no list of ids", remedy="say releases in the body")
    return list(acts.progress(names).values())


def _end(acts: TrafficControl, request: Request, said: dict[str, Any]) -> Any:
    return acts.end(request.path_params["release"], reason=_text(said, "reason", may_be_empty=True))


def _read(acts: TrafficControl, request: Request, _: dict[str, Any]) -> Any:
    return state_to_json(acts.read(request.path_params["release"]))


def _roll_back(acts: TrafficControl, request: Request, said: dict[str, Any]) -> Any:
    return state_to_json(acts.roll_back(request.path_params["release"], reason=_text(said, "reason")))


def _finish(acts: TrafficControl, request: Request, said: dict[str, Any]) -> Any:
    return state_to_json(acts.finish_watch(request.path_params["release"], reason=_text(said, "reason")))


def _withdraw(acts: TrafficControl, request: Request, _: dict[str, Any]) -> Any:
    return state_to_json(acts.withdraw(request.path_params["release"]))


def _pause(acts: TrafficControl, request: Request, said: dict[str, Any]) -> Any:
    return state_to_json(acts.pause(request.path_params["release"], _control(said)))


def _resume(acts: TrafficControl, request: Request, said: dict[str, Any]) -> Any:
    return state_to_json(acts.resume(request.path_params["release"], _control(said)))


def _skip(acts: TrafficControl, request: Request, said: dict[str, Any]) -> Any:
    return state_to_json(acts.skip_hold(request.path_params["release"], _control(said)))


def _control(said: dict[str, Any]) -> ControlRequest:
    seen = said.get("seen")
    if seen is not None and type(seen) is not int:
        raise Permanent("seen is no generation", remedy="send the one that was looked at, or none")
    return ControlRequest(_text(said, "by"), _text(said, "reason", may_be_empty=True), seen)


def _routes(router: TrafficRouter, request: Request, _: dict[str, Any]) -> Any:
    """All of them, unless they are as in the `known` state. One that cannot be read is left out."""
    found: dict[str, ServiceRoute] = {}
    for service in router.services():
        with suppress(SlipwayError):
            found[service] = router.read(service)
    # Of this process alone: another one gives them all again.
    state = f"{os.getpid()}-{hash(tuple(found.values())):x}"
    if state == request.query_params.get("known"):
        return {"state": state}
    return {"state": state, "routes": {name: route.to_json() for name, route in found.items()}}


def _route(router: TrafficRouter, request: Request, _: dict[str, Any]) -> Any:
    return router.read(request.path_params["service"]).to_json()


def _roll_model_back(acts: TrafficControl, request: Request, said: dict[str, Any]) -> Any:
    version = said.get("version")
    if version is not None and not isinstance(version, int):
        raise Permanent("version is no whole number", remedy="name a version, or none")
    names = ("reason", "incident", "by", "run_id")
    texts = {name: _text(said, name, may_be_empty=name == "incident") for name in names}
    return acts.roll_model_back(
        RollbackRequest(model=request.path_params["model"], version=version, at=_time(said), **texts)
    )


def _rollback(acts: TrafficControl, request: Request, _: dict[str, Any]) -> Any:
    return acts.rollback(request.path_params["rollback"])


def _adopt(acts: TrafficControl, request: Request, said: dict[str, Any]) -> Any:
    by, reason = _text(said, "by"), _text(said, "reason")
    return acts.adopt(request.path_params["service"], by=by, reason=reason).to_json()


class _Doors:
    """Lets those in who have the token, with a body that makes sense, and answers what is done there."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._limits: dict[str, anyio.CapacityLimiter] = {}

    def route(
        self, method: str, path: str, done: Answer, *, limit: str, longest: int = LONGEST_BODY
    ) -> Route:
        async def answer(request: Request) -> Response:
            try:
                self._authorize(request)
                said = await _body(request, longest)
                return await anyio.to_thread.run_sync(
                    lambda: _json(done(request, said)), limiter=self._limiter(limit)
                )
            except Exception as problem:
                return _told(request, problem)

        return Route(path, answer, methods=[method])

    def _authorize(self, request: Request) -> None:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._token):
            raise Unauthorized(
                "the controller does not know this token", remedy="send the one of its token file"
            )

    def _limiter(self, name: str) -> anyio.CapacityLimiter:
        """Made inside the loop that uses it."""
        return self._limits.setdefault(name, anyio.CapacityLimiter(_MOST[name]))


async def _body(request: Request, longest: int) -> Said:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > longest:
            raise BodyTooLarge(f"the body is longer than {longest} bytes", remedy="send what was asked for")
    if not content:
        return {}
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError as problem:
        raise Permanent(f"the body is no JSON: {problem}", remedy="send a JSON object") from problem
    if not isinstance(said, dict):
        raise Permanent("the body is no JSON object", remedy="send one")
    return said


def _text(said: dict[str, Any], name: str, *, may_be_empty: bool = False) -> str:
    value = said.get(name, "" if may_be_empty else None)
    if not isinstance(value, str) or not (value or may_be_empty):
        raise Permanent(f"{name} is missing, or no text", remedy=f"say {name} in the body")
    return value


def _time(said: dict[str, Any]) -> datetime:
    try:
        at = datetime.fromisoformat(_text(said, "at"))
    except ValueError as problem:
        raise Permanent(f"at is no time: {problem}", remedy="give ISO 8601 with an offset") from problem
    if at.tzinfo is None:
        raise Permanent("at has no offset from UTC", remedy="give ISO 8601 with an offset")
    return at


def _told(request: Request, problem: Exception) -> Response:
    """Trouble that nobody foresaw may be over later, and is in the log."""
    error = problem if isinstance(problem, SlipwayError) else unwritable(problem)
    if error is None:
        log.error("%s %s", request.method, request.url.path, exc_info=problem)
        error = Retryable(
            f"the controller failed at it: {type(problem).__name__}: {problem}", remedy="see its log"
        )
    return _json(wire_errors.to_json(error), _status_of(error))


def _status_of(error: SlipwayError) -> int:
    match error:
        case BodyTooLarge():
            return 413
        case Unauthorized():
            return 401
        case Retryable():
            return 503
    return 409


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
