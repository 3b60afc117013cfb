"""What the page asks of whatever it runs in. Airflow's answers are in `slipway_airflow.page`.

The page reads and acts by files and by the registry; who signs in, which DAGs run, and who was asked for
approval is the host's to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Protocol, cast

from fastapi import Depends, Request

from model_store.types import ModelRef
from serving.control.queries.runs import Runs
from serving.control.releases import Release
from serving.control.wiring import Services
from serving.web.access import Person

# States of a run that has not ended.
UNDER_WAY = ("queued", "running")


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A DAG run. `url`: of its page. `again`: it had been started before, by a request with the same key."""

    dag_id: str
    run_id: str
    at: datetime
    url: str
    again: bool = False


def run_id_of(key: str | None, by: str, at: datetime) -> str:
    """The same for the same person's same key: a DAG takes a run id only once."""
    if key is None:
        return f"slipway__{at:%Y-%m-%dT%H:%M:%S.%f}"
    return f"slipway__{hashlib.sha256(f'{by}:{key}'.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that has not ended: what it was asked for, by whom (empty: by nobody), and when."""

    run_id: str
    said: Mapping[str, Any]
    by: str
    at: datetime


class Dags(Protocol):
    """DAGs and their runs, to start and to end."""

    def start(
        self,
        dag_id: str,
        run_id: str,
        said: Mapping[str, Any],
        *,
        by: str,
        at: datetime,
        before: Callable[[], None],
    ) -> StartedRun:
        """Start a run; `before` is called when nothing can go wrong any more but the commit.

        Raises `Conflict` when there is no such DAG (yet).
        """
        ...

    def end(self, dag_id: str, run_id: str) -> bool:
        """Fail a run that has not ended: running tasks are killed, teardowns still run. False: it had."""
        ...

    def state_of(self, dag_id: str, run_id: str) -> str | None:
        """queued, running, success, failed; None when there is no such run (any more)."""
        ...

    def under_way(self, dag_id: str) -> list[OpenRun]:
        """Runs that have not ended, the oldest first."""
        ...

    def is_paused(self, dag_id: str) -> bool:
        """Whether somebody paused the DAG, so that runs only queue."""
        ...

    def released_models(self) -> set[str]:
        """Those with a release DAG, also one whose spec is gone."""
        ...

    def alias_of(self, model: str) -> str | None:
        """The alias whose version is released; None when no DAG releases the model."""
        ...

    def announce(self, ref: ModelRef, kind: str) -> None:
        """An event of this kind happened to the version: let its release DAG begin."""
        ...


class Approvals(Protocol):
    """Requests that wait for people."""

    def answer(
        self,
        services: Services,
        release: Release,
        person: Person,
        reason: str,
        *,
        approve: bool,
        bundle: str | None,
    ) -> int:
        """Answer the open request of this release; returns how many approvals are still missing.

        `bundle`: the id of the one the person saw, None for whichever is asked about now. Raises `Conflict`
        when there is nothing to answer (any more) or another bundle is asked about, saying who did what when,
        and `Forbidden` when this person is not one of those who may.
        """
        ...


@dataclass(frozen=True, slots=True)
class Host:
    """What the page runs in.

    `authenticate`: a dependency of every endpoint with a login; it puts a `Person` into
    `request.state.person` or raises 401. `login_url`: where to sign in, and come back from. `secret_key`:
    what only this server knows. `specs`: the folder of release specs. `database_errors`: what a full or
    broken disk of the host's own database raises, and `database`, what people call that.
    """

    authenticate: Callable[..., Any]
    login_url: Callable[[str], str]
    secret_key: Callable[[], str]
    specs: Callable[[], Path]
    dags: Dags
    runs: Runs
    approvals: Approvals
    database: str = "the database"
    database_errors: tuple[type[Exception], ...] = ()


async def host_of(request: Request) -> Host:
    """A dependency: what this app runs in."""
    return cast(Host, request.app.state.host)


InHost = Annotated[Host, Depends(host_of)]
