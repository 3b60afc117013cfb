"""A host for the page that is no Airflow: runs in memory, and a login by a header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request

from model_store.types import ModelRef
from serving.control.queries.runs import ModelDag, Question, RunSnapshot, Situation
from serving.control.releases import Release
from serving.control.wiring import Services
from serving.web.access import Person, Right
from serving.web.ports import UNDER_WAY, Host, OpenRun, StartedRun
from serving.web.problems import Conflict

USER = "x-user"


class MemoryDags:
    """Runs of the DAGs in `known`."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.paused: set[str] = set()
        self.aliases: dict[str, str] = {}
        self.announced: list[tuple[ModelRef, str]] = []
        self.runs: dict[tuple[str, str], OpenRun] = {}
        self.states: dict[tuple[str, str], str] = {}

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
        if dag_id not in self.known:
            raise Conflict(f"there is no DAG {dag_id} yet", remedy="wait")
        url = f"/dags/{dag_id}/runs/{run_id}"
        if known := self.runs.get((dag_id, run_id)):
            return StartedRun(dag_id, run_id, known.at, url, again=True)
        before()
        self.runs[dag_id, run_id] = OpenRun(run_id, said, by, at)
        self.states[dag_id, run_id] = "queued"
        return StartedRun(dag_id, run_id, at, url)

    def end(self, dag_id: str, run_id: str) -> bool:
        is_open = self.states.get((dag_id, run_id)) in UNDER_WAY
        if is_open:
            self.states[dag_id, run_id] = "failed"
        return is_open

    def state_of(self, dag_id: str, run_id: str) -> str | None:
        return self.states.get((dag_id, run_id))

    def under_way(self, dag_id: str) -> list[OpenRun]:
        return [run for key, run in self.runs.items() if key[0] == dag_id and self.states[key] in UNDER_WAY]

    def is_paused(self, dag_id: str) -> bool:
        return dag_id in self.paused

    def released_models(self) -> set[str]:
        return {dag_id.removeprefix("release_") for dag_id in self.known if dag_id.startswith("release_")}

    def alias_of(self, model: str) -> str | None:
        return self.aliases.get(model)

    def announce(self, ref: ModelRef, kind: str) -> None:
        self.announced.append((ref, kind))


class NoRuns:
    """Nothing ever ran, and nobody is asked."""

    def run(self, dag_id: str, run_id: str) -> RunSnapshot | None:
        return None

    def questions(self) -> list[Question]:
        return []

    def situation(self) -> Situation:
        return Situation()

    def models(self) -> dict[str, ModelDag]:
        return {}


class NoApprovals:
    """Nobody was asked anything."""

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
        raise Conflict(f"{release.id} asks nobody", remedy="look at it again")


def by_header(request: Request) -> None:
    """Whoever says a name is that person, with every right."""
    if not (name := request.headers.get(USER)):
        raise HTTPException(401, "Not authenticated")
    request.state.person = Person(name, frozenset(Right))


def memory_host(
    specs: Path, dags: MemoryDags | None = None, *, login: Callable[..., Any] = by_header
) -> Host:
    return Host(
        authenticate=login,
        login_url=lambda back: f"/sign-in?back={back}",
        secret_key=lambda: "a key of these tests",
        specs=lambda: specs,
        dags=dags or MemoryDags(),
        runs=NoRuns(),
        approvals=NoApprovals(),
    )
