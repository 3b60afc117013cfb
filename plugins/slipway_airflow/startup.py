"""What Airflow's API server does from its start on: it gets the pages ready, so that whoever comes first does
not wait, and writes down which DAGs are paused (`serving.control.paused_dags`), as nobody else may ask.

Otherwise the first request makes the app, reads every file and compiles every template: seconds, with ten
thousand releases.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from slipway_airflow.mount import LazyApp

log = logging.getLogger(__name__)
# Set for the API server of a Slipway stack (`serving.local_stack.components`); elsewhere nothing is read
# unasked.
SWITCH = "SLIPWAY_WARM_PAGES"


class PreparePages:
    """A middleware of Airflow's root app: of all that it sees, the first is that the server starts."""

    def __init__(self, app: ASGIApp, *, pages: LazyApp) -> None:
        self.app = app
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" or os.environ.get(SWITCH) != "1":
            await self.app(scope, receive, send)
            return
        over = threading.Event()
        threading.Thread(target=self._warm, name="slipway-warm", daemon=True).start()
        threading.Thread(target=record_paused_dags, args=(over,), name="slipway-paused", daemon=True).start()
        try:
            await self.app(scope, receive, send)
        finally:
            over.set()

    def _warm(self) -> None:
        try:
            _ = self._pages.app
            prepare()
        except Exception:
            log.exception("the pages are not warm: the first request will take longer")


def record_paused_dags(over: threading.Event) -> None:
    """Until the server ends."""
    try:
        from serving import composition
        from serving.control import paused_dags
        from slipway_airflow import airflow_situation

        paused_dags.watch(composition.wire().home, airflow_situation.paused_dags, over)
    except Exception:
        log.exception("which DAGs are paused is not noted: their rollouts go on")


def prepare() -> None:
    """Read every file and compile every template."""
    from serving.web.rendering import environment
    from serving.web.shared_catalog import whole_catalog

    templates = environment()
    for name in templates.list_templates():
        templates.get_template(name)
    whole_catalog().warm()
    # What is alive now stays: to look through a million objects for garbage again and again takes 0.2 s each
    # time, in which nobody gets an answer.
    gc.collect()
    gc.freeze()
