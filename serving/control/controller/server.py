"""The controller's port: uvicorn on a thread of its own, so that no request keeps a tick waiting."""

from __future__ import annotations

import socket
import threading
import time

import uvicorn
from starlette.applications import Starlette

from model_store.errors import Permanent

_START_SECONDS = 10.0


class ControllerServer:
    """Answers until `shutdown`. Only on loopback: whoever is beyond has a proxy that knows who may ask."""

    def __init__(self, app: Starlette, port: int, *, host: str = "127.0.0.1") -> None:
        self._socket = socket.create_server((host, port), reuse_port=False)
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True, name="controller-http"
        )

    def start(self) -> ControllerServer:
        """Returns when it answers."""
        self._thread.start()
        until = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise Permanent("the controller's port does not answer", remedy="see its log")
            time.sleep(0.01)
        return self

    def shutdown(self) -> None:
        """Ends what is under way after a second."""
        self._server.config.timeout_graceful_shutdown = 1
        self._server.should_exit = True
        self._thread.join(5)
        self._socket.close()
