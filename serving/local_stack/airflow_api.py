"""Airflow's REST API (v2), as far as the commands need it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from model_store.errors import Permanent, Retryable
from serving.home import Home
from serving.local_stack.slipway_api import does_not_answer, signed_in

_ENDED = ("success", "failed")
# Airflow gives no more at a time.
PAGE = 100


class UnknownDag(Permanent):
    """Airflow has no DAG of this name."""


@dataclass(frozen=True, slots=True)
class DagRun:
    """One run of a DAG. `state` is queued, running, success or failed."""

    dag_id: str
    run_id: str
    state: str

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDED


@dataclass(frozen=True, slots=True)
class TaskRun:
    """One task instance. `state` is None until it is scheduled; `map_index` is -1 unless it is mapped."""

    task_id: str
    map_index: int
    try_number: int
    state: str | None
    started_at: str | None
    ended_at: str | None = None

    @property
    def name(self) -> str:
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


class AirflowApi:
    """A session with the API server. Raises `Retryable` while it does not answer."""

    def __init__(self, client: httpx.Client, home: Home) -> None:
        self._client = client
        self._home = home

    def dag_ids(self, tag: str = "slipway") -> list[str]:
        """Active DAGs with this tag."""
        found = list[str]()
        while True:
            page = {"tags": tag, "limit": PAGE, "offset": len(found)}
            answer = self._call("GET", "/api/v2/dags", params=page)
            found += [dag["dag_id"] for dag in answer["dags"]]
            if not answer["dags"] or len(found) >= answer["total_entries"]:
                return sorted(found)

    def import_errors(self) -> dict[str, str]:
        """DAG file -> the last line of why it could not be read."""
        found = self._call("GET", "/api/v2/importErrors", params={"limit": 100})
        return {
            error["filename"]: error["stack_trace"].strip().splitlines()[-1]
            for error in found["import_errors"]
        }

    def trigger(self, dag_id: str, conf: Mapping[str, Any], *, note: str | None = None) -> DagRun:
        """Start a run now. Raises `UnknownDag` listing what exists."""
        body = {"logical_date": None, "conf": dict(conf), "note": note}
        try:
            return _run(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", json=body))
        except _NotFound as error:
            raise self._unknown(dag_id) from error

    def unpause(self, dag_id: str) -> bool:
        """Let the DAG's runs go on; whether it was paused. Raises `UnknownDag` listing what exists."""
        path = f"/api/v2/dags/{dag_id}"
        try:
            was_paused = bool(self._call("GET", path)["is_paused"])
            self._call("PATCH", path, json={"is_paused": False})
        except _NotFound as error:
            raise self._unknown(dag_id) from error
        return was_paused

    def _unknown(self, dag_id: str) -> UnknownDag:
        known = ", ".join(self.dag_ids()) or "none yet"
        return UnknownDag(f"Airflow has no DAG {dag_id!r}", remedy=f"DAGs of Slipway: {known}.")

    def run(self, run: DagRun) -> DagRun:
        """The same run, as it is now."""
        return _run(self._call("GET", f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}"))

    def latest_runs(self, dag_id: str, *, limit: int = 10) -> list[DagRun]:
        """The DAG's last runs, the newest first."""
        newest_first = {"order_by": "-run_after", "limit": limit}
        found = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns", params=newest_first)
        return [_run(plain) for plain in found["dag_runs"]]

    def tasks(self, run: DagRun) -> list[TaskRun]:
        """The run's task instances in the order in which they started, those that did not start last."""
        path = f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances"
        found = self._call("GET", path, params={"limit": 100})["task_instances"]
        fields = ("task_id", "map_index", "try_number", "state", "start_date", "end_date")
        tasks = [TaskRun(*(ti[field] for field in fields)) for ti in found]
        return sorted(tasks, key=lambda task: task.started_at or "~")

    def log(self, run: DagRun, task: TaskRun) -> list[str]:
        """The messages of the task's last try."""
        path = f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task.task_id}/logs"
        found = self._call("GET", f"{path}/{task.try_number}", params={"map_index": task.map_index})
        return [str(line.get("event", "")) for line in found["content"] if isinstance(line, dict)]

    def xcom(self, run: DagRun, task: TaskRun, key: str) -> str | None:
        """What the task left under this key, as text."""
        of_task = f"/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{task.task_id}"
        try:
            path, which = f"{of_task}/xcomEntries/{key}", {"map_index": task.map_index}
            return str(self._call("GET", path, params=which)["value"])
        except _NotFound:
            return None

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            answer = self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise does_not_answer(str(self._client.base_url), error) from error
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise _NotFound(f"Airflow knows no {path}", remedy="Check the name.")
        if answer.is_error:
            raise Retryable(
                f"Airflow answers {answer.status_code} to {method} {path}: {answer.text[:300]}",
                remedy=f"Read {self._home.logs / 'airflow-api-server.log'}.",
            )
        return answer.json()


class _NotFound(Permanent):
    """Status 404."""


@contextmanager
def airflow_api(home: Home) -> Iterator[AirflowApi]:
    """A session of whom `serving.local_stack.slipway_api` signs in. Raises `Retryable` while Airflow is
    down.
    """
    with signed_in(home) as client:
        yield AirflowApi(client, home)


def _run(plain: dict[str, Any]) -> DagRun:
    return DagRun(plain["dag_id"], plain["dag_run_id"], plain["state"])
