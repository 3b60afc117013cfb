"""The page in Airflow: its app, made when it is first needed, and what the API server does from its start on.

The server gets the pages ready, so that whoever comes first does not wait, and writes down which DAGs are
paused (`serving.control.paused_dags`), as nobody else may ask. Airflow loads plugins in every process, each
task's too, and FastAPI with all endpoints takes a second: hence the imports in functions.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from serving.web.ports import Host

log = logging.getLogger(__name__)
# Set for the API server of a Slipway stack (`serving.local_stack.components`); elsewhere nothing is read
# unasked.
SWITCH = "SLIPWAY_WARM_PAGES"


def airflow_host() -> Host:
    """What the page asks (`serving.web.ports`), answered by the Airflow of this process."""
    from sqlalchemy.exc import OperationalError

    from serving.web.ports import Host
    from slipway_airflow import approval_answers, authorization, dag_runs
    from slipway_airflow.airflow_runs import AirflowRuns

    return Host(
        authenticate=authorization.authenticate,
        login_url=authorization.login_url,
        secret_key=authorization.secret_key,
        specs=dag_runs.specs,
        dags=dag_runs,
        runs=AirflowRuns(),
        approvals=approval_answers,
        database="Airflow's database",
        database_errors=(OperationalError,),
    )


class LazyApp:
    """An ASGI app that is made on the first request, once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)

    @property
    def app(self) -> Any:
        """The FastAPI app behind this."""
        from serving.web.app import make_app

        with self._lock:
            if self._app is None:
                self._app = make_app(airflow_host())
        return self._app


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
            from serving.web.app import prepare

            prepare(self._pages.app.state.host)
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
