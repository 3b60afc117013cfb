"""A real pod on its own event loop in a thread, for tests that speak to it over sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import uvloop

from serving.pod.management import Address
from serving.pod.pod import Pod, PodOptions


class RunningPod:
    """`http` is a client of the pod, `management` one of where it is managed; `pod` its object (touch it only
    through `call`)."""

    def __init__(self, options: PodOptions) -> None:
        self._options = replace(options, lame_duck_seconds=0.02)
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait(120)
        if self._failure is not None:
            raise self._failure
        # No limits: closing surplus idle connections races with other threads that are about to use them.
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        base = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=base, timeout=10, limits=unlimited)
        self.management = httpx.Client(base_url=f"http://127.0.0.1:{self.management_port}", timeout=10)

    @property
    def port(self) -> int:
        return self.pod.port

    @property
    def management_port(self) -> int:
        return self.pod.management_port

    def infer(self, body: dict[str, Any], model: str = "credit_risk", **options: Any) -> httpx.Response:
        return self.http.post(f"/v2/models/{model}/infer", json=body, **options)

    def connect(self, port: int | None = None) -> socket.socket:
        """A bare connection, for saying things no HTTP client would."""
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=10)

    def stop(self) -> None:
        """Drain and wait for the end. Calling it twice is fine."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.pod.stop)
        self._thread.join(20)
        self.http.close()
        self.management.close()
        assert not self._thread.is_alive(), "the pod did not end"

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as error:
            self._failure = error
        self._started.set()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pod = Pod(self._options, self.loop)
        serving = self.loop.create_task(self.pod.serve())
        while not serving.done() and not self.pod.is_ready:
            await asyncio.sleep(0.005)
        if not serving.done():
            self._started.set()
        await serving


@contextlib.contextmanager
def running_pod(*bundles: Path, **options: Any) -> Iterator[RunningPod]:
    """A pod that serves `bundles`, ready, until the block ends."""
    managed: dict[str, Any] = {"management": Address(host="127.0.0.1"), **options}
    pod = RunningPod(PodOptions(bundles=bundles, **managed))
    try:
        yield pod
    finally:
        pod.stop()
