"""Everything but the short way to infer: health, metadata, model repository, metrics, unknown paths."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from model_store.engines.errors import ModelFault, Refused, Unavailable
from model_store.errors import SlipwayError
from serving.pod.http.exchange import JSON, TEXT, Exchange
from serving.pod.http.infer import infer
from serving.pod.http.invocations import invoke
from serving.pod.metadata import model_config, model_metadata, repository_index, server_metadata
from serving.pod.repository import Repository
from serving.pod.statistics import model_statistics

log = logging.getLogger("slipway.pod")

LIVE = b'{"live":true}'
# The protocol's text calls it `live` here too, its clients read `ready`.
READY = b'{"live":true,"ready":true}'
Answer = bytes
Handler = Callable[[Exchange], Answer]


class Routes:
    """`is_ready` says whether the pod wants traffic, `is_alive` whether its engines compute; `metrics` prints
    the Prometheus text.

    `managed_at` says where the model repository is managed instead; None: here.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        is_ready: Callable[[], bool],
        is_alive: Callable[[], bool],
        metrics: Callable[[], Coroutine[Any, Any, bytes]],
        managed_at: str | None,
        max_body_bytes: int,
    ) -> None:
        self._repository, self._is_ready, self._metrics = repository, is_ready, metrics
        self._is_alive, self._max_body_bytes = is_alive, max_body_bytes
        self._managed_at = managed_at
        self._tasks: set[asyncio.Task[None]] = set()
        self._fixed: dict[tuple[str, ...], tuple[bytes, Callable[[Exchange], None]]] = {
            ("v2",): (b"GET", lambda exchange: exchange.reply(server_metadata(manages=managed_at is None))),
            ("v2", "health", "live"): (b"GET", self._live),
            ("v2", "health", "ready"): (b"GET", self._ready),
            ("v2", "models", "stats"): (b"GET", lambda exchange: self._counted(exchange, "", None)),
            ("v2", "repository", "index"): (b"POST", self._list),
            ("invocations",): (b"POST", self._invoke_the_one),
            ("ping",): (b"GET", self._ping),
            ("metrics",): (b"GET", lambda exchange: self._start(_told(exchange, self._metrics()))),
        }

    def answer(self, exchange: Exchange) -> None:
        """Answer any exchange; a mistake becomes a 4xx that lists what there is."""
        try:
            self._route(exchange, _segments(exchange.target))
        except _WrongMethod as error:
            exchange.reply_error(error, headers=b"allow: %s\r\n" % error.allowed)
        except SlipwayError as error:
            exchange.reply_error(error)

    def _route(self, exchange: Exchange, path: tuple[str, ...]) -> None:
        if path[:2] == ("v2", "repository") and self._managed_at is not None:
            raise Refused("the model repository is not managed here", remedy=self._managed_at, status=404)
        fixed = self._fixed.get(path)
        if fixed is not None:
            _expect_method(exchange, fixed[0])
            fixed[1](exchange)
            return
        match path:
            case ("v2", "models", name):
                self._describe(exchange, name, None)
            case ("v2", "models", name, "versions", version):
                self._describe(exchange, name, version)
            case ("v2", "models", name, "config"):
                self._configured(exchange, name, None)
            case ("v2", "models", name, "versions", version, "config"):
                self._configured(exchange, name, version)
            case ("v2", "models", name, "stats"):
                self._counted(exchange, name, None)
            case ("v2", "models", name, "versions", version, "stats"):
                self._counted(exchange, name, version)
            case ("v2", "models", name, "ready"):
                self._model_ready(exchange, name, None)
            case ("v2", "models", name, "versions", version, "ready"):
                self._model_ready(exchange, name, version)
            case ("v2", "models", name, "infer"):
                self._infer(exchange, name, None)
            case ("v2", "models", name, "versions", version, "infer"):
                self._infer(exchange, name, version)
            case ("v2", "models", name, "invocations"):
                self._invoke(exchange, name, None)
            case ("v2", "models", name, "versions", version, "invocations"):
                self._invoke(exchange, name, version)
            case ("v2", "repository", "models", name, "load" | "unload" as verb):
                self._change(exchange, name, verb)
            case _:
                raise Refused("no such path", remedy="see GET /v2 and docs/serving.md", status=404)

    def _live(self, exchange: Exchange) -> None:
        if not self._is_alive():
            raise Unavailable("a batch is stuck in its engine", remedy="start the pod anew")
        exchange.reply(LIVE)

    def _ready(self, exchange: Exchange) -> None:
        self._expect_ready()
        exchange.reply(READY)

    def _expect_ready(self) -> None:
        if not self._is_ready():
            why = self._repository.why_not or "draining"
            raise Unavailable(f"not ready: {why}", remedy="wait, or load it")

    def _list(self, exchange: Exchange) -> None:
        only_ready = False
        if exchange.body:
            try:
                only_ready = orjson.loads(exchange.plain).get("ready") is True
            except (orjson.JSONDecodeError, AttributeError) as error:
                raise Refused(
                    "the body is not a JSON object", remedy='send {"ready": true} or nothing'
                ) from error
        exchange.reply(orjson.dumps(repository_index(self._repository, only_ready=only_ready)))

    def _describe(self, exchange: Exchange, name: str, version: str | None) -> None:
        _expect_method(exchange, b"GET")
        model = self._repository.loaded(name, version)
        versions = [e.version for e in self._repository.entries if e.name == name and e.model]
        exchange.reply(orjson.dumps(model_metadata(model, versions)))

    def _configured(self, exchange: Exchange, name: str, version: str | None) -> None:
        _expect_method(exchange, b"GET")
        exchange.reply(orjson.dumps(model_config(self._repository.loaded(name, version))))

    def _counted(self, exchange: Exchange, name: str, version: str | None) -> None:
        _expect_method(exchange, b"GET")
        found = self._repository.described(name, version)
        exchange.reply(orjson.dumps({"model_stats": [model_statistics(entry) for entry in found]}))

    def _model_ready(self, exchange: Exchange, name: str, version: str | None) -> None:
        _expect_method(exchange, b"GET")
        model = self._repository.model(name, version)
        body = orjson.dumps({"name": model.name, "ready": True})
        exchange.reply(body, headers=JSON + model.headers)

    def _infer(self, exchange: Exchange, name: str, version: str | None) -> None:
        _expect_method(exchange, b"POST")
        infer(exchange, self._repository.asked(name, version), self._max_body_bytes)

    def _invoke(self, exchange: Exchange, name: str, version: str | None) -> None:
        _expect_method(exchange, b"POST")
        invoke(exchange, self._repository.asked(name, version), self._max_body_bytes)

    def _invoke_the_one(self, exchange: Exchange) -> None:
        """As `mlflow models serve` has it, whose server has one model."""
        names = sorted({entry.name for entry in self._repository.entries})
        if len(names) != 1:
            raise Refused(
                f"this pod has the models {', '.join(names)}",
                remedy="ask /v2/models/<name>/invocations",
                status=404,
            )
        self._invoke(exchange, names[0], None)

    def _ping(self, exchange: Exchange) -> None:
        self._expect_ready()
        exchange.reply(b"\n")

    def _change(self, exchange: Exchange, name: str, verb: str) -> None:
        _expect_method(exchange, b"POST")
        change = self._repository.load if verb == "load" else self._repository.unload
        self._start(_changed(exchange, change(name)))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _told(exchange: Exchange, metrics: Coroutine[Any, Any, bytes]) -> None:
    try:
        exchange.reply(await metrics, headers=TEXT)
    except Exception as error:
        log.exception("the metrics could not be told")
        exchange.reply_error(ModelFault(f"{type(error).__name__}: {error}"))


async def _changed(exchange: Exchange, change: Coroutine[Any, Any, None]) -> None:
    try:
        try:
            await change
        except SlipwayError as error:
            exchange.reply_error(error)
        except Exception as error:
            exchange.reply_error(ModelFault(f"{type(error).__name__}: {error}"))
        else:
            exchange.reply(b"")
    except Exception:
        log.exception("request to %r broke the pod's own code", exchange.target[:200])
        exchange.connection.broke(exchange)


class _WrongMethod(Refused):
    def __init__(self, method: bytes, *, allowed: bytes) -> None:
        super().__init__(
            f"{method.decode()} is not allowed here", remedy=f"use {allowed.decode()}", status=405
        )
        self.allowed = allowed


def _expect_method(exchange: Exchange, method: bytes) -> None:
    if exchange.method != method and not (method == b"GET" and exchange.method == b"HEAD"):
        raise _WrongMethod(exchange.method, allowed=method)


def _segments(target: bytes) -> tuple[str, ...]:
    path = target.split(b"?", 1)[0]
    try:
        return tuple(unquote_to_bytes(part).decode() for part in path.strip(b"/").split(b"/"))
    except UnicodeDecodeError as error:
        raise Refused("the path is not UTF-8", remedy="percent-encode it", status=404) from error
