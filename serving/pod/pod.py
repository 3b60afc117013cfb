"""The pod's life: listen, load and warm, serve, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_store.attestation import Trusted
from serving.pod import management
from serving.pod.answers import Answers, follow_invalidations
from serving.pod.exposition import exposition
from serving.pod.front import Front
from serving.pod.grpc.service import Service
from serving.pod.http.connection import Connection
from serving.pod.http.routes import Routes
from serving.pod.management import Address
from serving.pod.measuring import Measuring
from serving.pod.model import ServedModel
from serving.pod.opened import OpenedModel
from serving.pod.readers.pool import Readers
from serving.pod.repository import Repository
from serving.pod.surroundings import Surroundings
from serving.pod.telemetry import ModelMetrics
from serving.pod.tracing import make_tracer
from serving.pod.warm_rows import ask_itself

if TYPE_CHECKING:
    from serving.pod.cache.link import RedisLink

log = logging.getLogger("slipway.pod")

_ALLOCATIONS_BETWEEN_COLLECTIONS = 20_000
_FIRST_REQUEST_SECONDS = 0.25
_LAST_ANSWER_SECONDS = 1.0
# Between two looks at the GPU.
_GPU_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class PodOptions:
    """How a pod is started. `port` 0 takes a free one; times in seconds."""

    bundles: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 0
    management: Address | None = None
    slot: str = ""
    faults: str = ""
    redis: str = ""
    request_log: Path | None = None
    max_body_bytes: int = 64 * 1024 * 1024
    max_connections: int = 4096
    drain_seconds: float = 20.0
    # Ready only once it has answered its bundles' warm rows, for platforms that cannot ask every new pod.
    answer_warm_rows: bool = False
    # A batch that takes longer is stuck in its engine, and so is the pod: it says that it is not alive.
    stuck_seconds: float = 60.0
    # After SIGTERM the pod goes on accepting for this long: callers learn of it only by its health answers.
    lame_duck_seconds: float = 0.5
    # Whose signatures bundles have to bear, down to the byte; None: nobody's.
    trusted: Trusted | None = None
    # Processes that read requests for this one; 0: it reads them itself.
    readers: int = 0


class Pod:
    """One event loop, one process. `serve` returns when drained."""

    def __init__(self, options: PodOptions, loop: asyncio.AbstractEventLoop) -> None:
        self._options, self._loop, self._clock = options, loop, time.perf_counter
        self._link = _open_link(options.redis, self._clock)
        self.repository = Repository(
            list(options.bundles),
            admit=self._admit,
            clock=self._clock,
            request_log=options.request_log,
            trusted=options.trusted,
        )
        self._measuring = Measuring(lambda: self.repository.models)
        self.front = self._front(managed_at=management.words(options.management))
        self.management = self._front(managed_at=None)
        self.readers = Readers(
            options.readers,
            self.front,
            max_body_bytes=options.max_body_bytes,
            max_connections=options.max_connections,
        )
        self._around = self._surroundings()
        self._stop = asyncio.Event()
        self._is_warm = not options.answer_warm_rows
        self._tasks: set[asyncio.Task[None]] = set()
        self._management_listener = management.Listener(options.management)
        self.port = 0

    @property
    def is_ready(self) -> bool:
        return self.repository.is_ready and self._is_warm and not self.front.is_draining

    @property
    def is_alive(self) -> bool:
        """Whether no batch is stuck, as one for which nobody can be waiting any more."""
        least = self._options.stuck_seconds
        return all(
            model.batcher.computing_seconds <= max(least, 2 * model.timeout_seconds)
            for model in self.repository.models
        )

    @property
    def connections(self) -> int:
        """Of clients, wherever they are read."""
        return self.front.connections + self.readers.connections

    @property
    def _is_quiet(self) -> bool:
        return self.front.is_quiet and self.readers.is_quiet

    @property
    def _has_newcomers(self) -> bool:
        return self.front.has_newcomers or self.readers.has_newcomers

    @property
    def management_port(self) -> int:
        return self._management_listener.port

    def stop(self) -> None:
        """Begin to drain. Safe to call twice."""
        self._stop.set()

    async def serve(self) -> None:
        """Listen at once (live, not ready), load, serve until `stop` (also while loading), drain.

        Raises `SlipwayError` when a bundle cannot be loaded, `OSError` when an address is taken.
        """
        server = await self._loop.create_server(
            self.readers.protocol, self._options.host, self._options.port, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        self._start(self._sweep())
        self._start(self._watch_gpu())
        try:
            await self.readers.start()
            await self._management_listener.open(self._loop, lambda: Connection(self.management))
            if await self._load():
                if self._link is not None:
                    self._start(follow_invalidations(self._link, self._answers))
                log.info("ready on %s:%d", self._options.host, self.port)
                await self._stop.wait()
            await self._drain(server)
        finally:
            await self._end(server)

    async def _load(self) -> bool:
        """Whether everything is loaded: not where `stop` came first."""
        loading = self._loop.create_task(self._load_and_answer())
        stopping = self._loop.create_task(self._stop.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not loading.done():
            loading.cancel()
            log.info("stopped while loading")
            return False
        loading.result()
        return True

    async def _load_and_answer(self) -> None:
        await self.repository.load_all()
        if not self._is_warm:
            asked = sum([await ask_itself(bundle, self.port) for bundle in self._options.bundles])
            log.info("answered %d warm rows", asked)
            self._is_warm = True

    async def _drain(self, server: asyncio.Server) -> None:
        self.front.drain()
        self.readers.drain()
        self.management.drain()
        await asyncio.sleep(self._options.lame_duck_seconds)
        for waiting in _close_port(server):
            with contextlib.suppress(OSError):
                await self._loop.connect_accepted_socket(lambda: Connection(self.front), waiting)
        closed = self._clock()
        # Who has just been let in is about to ask, and has not been told yet to go elsewhere.
        while (waited := self._clock() - closed) < self._options.drain_seconds and (
            not self._is_quiet or (self._has_newcomers and waited < _FIRST_REQUEST_SECONDS)
        ):
            await asyncio.sleep(0.01)
        self.front.close_idle()
        self.readers.close_idle()
        self.management.close_idle()
        closed = self._clock()
        # Clients of gRPC close their half when they have read the last answer.
        while self.connections and self._clock() - closed < _LAST_ANSWER_SECONDS:
            await asyncio.sleep(0.01)
        self.front.close_idle()
        self.readers.close_idle()
        await asyncio.sleep(0)
        log.info("drained")

    async def _end(self, server: asyncio.AbstractServer) -> None:
        server.close()
        self._management_listener.close()
        await self.readers.close()
        for task in list(self._tasks):
            task.cancel()
        for model in self.repository.models:
            if model.log is not None:
                await asyncio.to_thread(model.log.close)
        if self._link is not None:
            with contextlib.suppress(Exception):
                await self._link.close()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.front.sweep()
            self.readers.sweep()
            self.management.sweep()

    def _front(self, *, managed_at: str | None) -> Front:
        def is_ready() -> bool:
            return self.is_ready

        def is_alive() -> bool:
            return self.is_alive

        return Front(
            self.repository,
            Routes(
                self.repository,
                is_ready=is_ready,
                is_alive=is_alive,
                metrics=self._metrics,
                managed_at=managed_at,
                max_body_bytes=self._options.max_body_bytes,
            ),
            Service(self.repository, is_ready=is_ready, is_alive=is_alive, managed_at=managed_at),
            loop=self._loop,
            clock=self._clock,
            max_body_bytes=self._options.max_body_bytes,
            max_connections=self._options.max_connections,
        )

    def _admit(self, opened: OpenedModel, metrics: ModelMetrics) -> ServedModel:
        model = ServedModel(opened, self._around, metrics)
        if self._link is not None and model.answers is not None:
            self._start(_learn_epoch(self._link, model.name, model.answers))
        return model

    def _answers(self) -> dict[str, list[Answers]]:
        found: dict[str, list[Answers]] = {}
        for model in self.repository.models:
            if model.answers is not None:
                found.setdefault(model.name, []).append(model.answers)
        return found

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            slot=self._options.slot,
            faults=self._options.faults,
            chance=random.Random(),
            loop=self._loop,
            clock=self._clock,
            relay=lambda name: self.repository.model(name, None),
            link=self._link,
            request_log=self._options.request_log,
            tracer=make_tracer(self._clock),
        )

    async def _metrics(self) -> bytes:
        measured = await self._measuring.now()
        return exposition(
            self.repository, measured, connections=self.connections, is_ready=self.is_ready, link=self._link
        )

    async def _watch_gpu(self) -> None:
        """A GPU that is lost answers nobody: the pod is not ready, and says why."""
        while True:
            await asyncio.sleep(_GPU_SECONDS)
            if not self._measuring.is_on_gpu:
                continue
            lost = (await self._measuring.now()).lost
            if lost != self.repository.lost_gpu:
                log.critical("the GPU is lost: %s", lost) if lost else log.warning("the GPU answers again")
                self.repository.lost_gpu = lost

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _open_link(url: str, clock: Callable[[], float]) -> RedisLink | None:
    if not url:
        return None
    # Imported here: redis takes a tenth of a second that pods without it need not spend.
    from serving.pod.cache.link import RedisLink

    return RedisLink(url, clock)


def _close_port(server: asyncio.Server) -> list[socket.socket]:
    """Stop listening. What comes back are connections that were made and not taken yet: libuv takes one a
    turn, so under load many wait, and closing would reset them."""
    ports = [socket.socket(fileno=os.dup(port.fileno())) for port in server.sockets]
    server.close()
    waiting = []
    for port in ports:
        with port, contextlib.suppress(OSError):
            port.setblocking(False)
            while True:
                waiting.append(port.accept()[0])
    return waiting


async def _learn_epoch(link: RedisLink, model: str, answers: Answers) -> None:
    # Without an answer now, the next (re)connection of the listener brings it.
    with contextlib.suppress(Exception):
        answers.invalidated(await link.epoch(model, answers.bundle))


async def run(options: PodOptions) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    pod = Pod(options, loop)
    settling = loop.create_task(_settle_memory(pod))
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, pod.stop)
    try:
        await pod.serve()
    finally:
        settling.cancel()


async def _settle_memory(pod: Pod) -> None:
    """Once loaded, keep the garbage collector away from what stays: looking through it would halt requests.

    Requests are freed by their reference counts; the rare cycles can wait for a larger heap.
    """
    while not pod.is_ready:
        await asyncio.sleep(0.1)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS_BETWEEN_COLLECTIONS, 20, 20)
