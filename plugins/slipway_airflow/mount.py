"""Stands where Airflow wants an app: the real one is made when the first request comes.

Airflow loads plugins in every process, each task's too, and FastAPI with all endpoints takes a second.
"""

from __future__ import annotations

from threading import Lock
from typing import Any


class LazyApp:
    """An ASGI app that is made on the first request, once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)

    @property
    def app(self) -> Any:
        """The FastAPI app behind this."""
        from serving.web.app import make_app

        with self._lock:
            if self._app is None:
                self._app = make_app()
        return self._app
