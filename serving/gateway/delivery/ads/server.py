"""The server that Envoys ask: aggregated discovery over gRPC, in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from model_store.errors import Permanent
from serving.gateway.delivery.ads import proxies_file
from serving.gateway.delivery.ads.changes import Changes
from serving.gateway.delivery.ads.messages import kind
from serving.gateway.delivery.ads.records import GatewayFiles
from serving.gateway.delivery.ads.state import State
from serving.gateway.delivery.ads.status import EnvoyConnection, Status
from serving.gateway.delivery.ads.stream import DiscoveryRequest, DiscoveryResponse
from serving.gateway.delivery.base import always
from serving.home import Home

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_REQUEST, _RESPONSE = (f"envoy.service.discovery.v3.Discovery{name}" for name in ("Request", "Response"))
_START_SECONDS = 10.0
# So often it is looked whether it still is the one that tells Envoys.
_SERVES_EVERY_SECONDS = 0.2
# An Envoy that says nothing at all for so long is not there any more: nobody waits for it then.
_PING_EVERY_MS, _PING_WITHIN_MS = 20_000, 40_000
_OPTIONS = (
    ("grpc.keepalive_time_ms", _PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", _PING_WITHIN_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    # Two servers on one port would be asked in turn.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", -1),
)

log = logging.getLogger(__name__)


class AdsServer:
    """Tells every Envoy that connects what the home's files say. `start` and `stop`, from any thread.

    `listen` is an address as `127.0.0.1:8486`; who connects has to show `token`. While it is down Envoys keep
    what they were told last. Several servers of the same files say the same. While `serves` says no, whoever
    is connected or comes is sent away, and looks for another server.
    """

    def __init__(self, home: Home, *, listen: str, token: str, serves: Callable[[], bool] = always) -> None:
        self._home, self._listen, self._token, self._serves = home, listen, token, serves
        self._thread = threading.Thread(target=self._run, daemon=True, name="ads")
        self._ready, self._problem = threading.Event(), ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None

    @property
    def problem(self) -> str:
        """As `serving.gateway.delivery.base.Server` says."""
        return f"the gateway's Envoys are told nothing: {self._problem}" if self._problem else ""

    def start(self) -> None:
        """Returns once it listens. Raises `Permanent` if it cannot."""
        self._thread.start()
        if not self._ready.wait(_START_SECONDS) or self._problem:
            why = self._problem or "it takes too long"
            raise Permanent(
                f"the gateway's Envoys cannot be served at {self._listen}: {why}",
                remedy="end what listens there, or give another address by SLIPWAY_ADS_LISTEN",
            )

    def stop(self) -> None:
        if self._loop and self._ending and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(_START_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as problem:
            log.exception("the gateway's Envoys are served no more")
            self._problem = str(problem) or type(problem).__name__
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        server = grpc.aio.server(options=_OPTIONS)
        told = _Discovery(self._home, self._token, self._serves)
        server.add_generic_rpc_handlers((told.handler(),))
        server.add_insecure_port(self._listen)
        await server.start()
        # Hundreds of services take seconds to read: who connects meanwhile is told afterwards.
        self._ready.set()
        with proxies_file.served(self._home):
            try:
                told.start()
                await self._ending.wait()
            finally:
                told.stop()
                await server.stop(None)


class _Discovery:
    """What all connections share: the state, and who has acknowledged it."""

    def __init__(self, home: Home, token: str, serves: Callable[[], bool]) -> None:
        self._records, self._token, self._serves = GatewayFiles(home), token, serves
        self._changes = Changes((home.envoy,), home.routes, self._changed)
        self._state: State | None = None
        self._status = Status(home)
        self._connections: dict[EnvoyConnection, asyncio.Event] = {}
        self._reading: asyncio.Handle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._folders: set[Path] | None = set()

    def start(self) -> None:
        """Read what there is. Before that nobody is told anything."""
        self._changes.start()
        self._changed(None)
        self._read()
        self._asking = asyncio.create_task(self._send_away())

    def stop(self) -> None:
        self._changes.stop()
        if self._asking:
            self._asking.cancel()
        if self._reading:
            self._reading.cancel()
        self._status.write()

    def handler(self) -> grpc.GenericRpcHandler:
        method = grpc.stream_stream_rpc_method_handler(
            self._answer,
            request_deserializer=kind(_REQUEST).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"StreamAggregatedResources": method})

    def _changed(self, folders: set[Path] | None) -> None:
        known = self._folders
        self._folders = None if folders is None or known is None else known | folders
        # What is written together is read together.
        if self._reading is None:
            self._reading = asyncio.get_running_loop().call_later(0.001, self._read)

    def _read(self) -> None:
        if self._reading:
            self._reading.cancel()
        folders, self._folders, self._reading = self._folders, set(), None
        before, state = self._state, self._records.read(folders)
        if state and state != before:
            self._state = self._status.state = state
            for stirred in self._connections.values():
                stirred.set()
            self._status.write_soon()

    async def _answer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        await self._require_token(context)
        await self._require_serving(context)
        connection, stirred = EnvoyConnection(context.peer(), since=datetime.now(UTC)), asyncio.Event()
        self._connections[connection] = stirred
        listener = asyncio.create_task(self._listen(requests, connection, stirred))
        listener.add_done_callback(lambda _: stirred.set())
        try:
            while not listener.done():
                await stirred.wait()
                stirred.clear()
                await self._require_serving(context)
                if self._state:
                    for response in connection.stream.due(self._state):
                        yield _message(response)
                self._status.write_soon()
        finally:
            listener.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await listener
            del self._connections[connection]
            self._status.left(connection)

    async def _listen(
        self, requests: AsyncIterator[Any], connection: EnvoyConnection, stirred: asyncio.Event
    ) -> None:
        async for message in requests:
            if message.HasField("node") and message.node.id:
                connection.introduced(message.node)
                self._status.came(connection)
            connection.heard(_request(message), self._state or State())
            stirred.set()

    async def _send_away(self) -> None:
        """Those who are connected notice it before they are told more."""
        while True:
            await asyncio.sleep(_SERVES_EVERY_SECONDS)
            if self._connections and not self._serves():
                for stirred in self._connections.values():
                    stirred.set()

    async def _require_serving(self, context: Any) -> None:
        if not self._serves():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "another controller moves traffic")

    async def _require_token(self, context: Any) -> None:
        shown = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not hmac.compare_digest(str(shown).encode(), f"Bearer {self._token}".encode()):
            log.warning("%s asked for the gateway's resources without the home's token", context.peer())
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "show the token of the bootstrap")


def _request(message: Any) -> DiscoveryRequest:
    error = " ".join(message.error_detail.message.split())
    if message.HasField("error_detail") and not error:
        error = "refused without a word"
    return DiscoveryRequest(
        message.type_url,
        frozenset(message.resource_names),
        message.version_info,
        message.response_nonce,
        error,
    )


def _message(response: DiscoveryResponse) -> Any:
    made = kind(_RESPONSE)(version_info=response.version, type_url=response.type_url, nonce=response.nonce)
    for each in response.resources:
        made.resources.add(type_url=each.type_url, value=each.value)
    return made
