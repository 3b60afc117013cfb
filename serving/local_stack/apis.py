"""Slipway's own REST API (docs/api.md) and Airflow's, as the commands use them: here, or from elsewhere.

`SLIPWAY_URL` names another Airflow than this installation's; `SLIPWAY_TOKEN` is a bearer token, or
`SLIPWAY_USER` and `SLIPWAY_PASSWORD` an account. Without them the installation's own admin acts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from model_store.errors import Permanent, Retryable
from serving.credentials import credentials_of
from serving.home import Home

API = "/slipway/api/v1"


class ConflictAnswer(Permanent):
    """Somebody else was faster, or it is too late."""


class SlipwayApi:
    """A session. `Permanent` for what is refused, in the server's own words; `Retryable` while it is down."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url

    def get(self, path: str, **query: Any) -> Any:
        given = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", path, params=given)

    def post(self, path: str, headers: Mapping[str, str] | None = None, **body: Any) -> Any:
        given = {name: value for name, value in body.items() if value is not None}
        return self._call("POST", path, json=given, headers=headers)

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            answer = self._client.request(method, API + path, **arguments)
        except httpx.HTTPError as error:
            raise does_not_answer(self._url, error) from error
        if answer.is_error:
            raise _problem(answer)
        return answer.json()


@contextmanager
def slipway_api(home: Home) -> Iterator[SlipwayApi]:
    """A session of whom the environment names. Raises `Retryable` while Airflow does not answer."""
    with signed_in(home) as client:
        yield SlipwayApi(client, str(client.base_url))


@contextmanager
def signed_in(home: Home) -> Iterator[httpx.Client]:
    """A client of Airflow with a bearer token."""
    url = (os.environ.get("SLIPWAY_URL") or home.airflow_url).rstrip("/")
    # What runs on this machine is asked without a proxy of the environment between.
    with httpx.Client(base_url=url, timeout=20, trust_env=url != home.airflow_url) as client:
        token = os.environ.get("SLIPWAY_TOKEN") or _token(client, home, url)
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


def _token(client: httpx.Client, home: Home, url: str) -> str:
    try:
        answer = client.post("/auth/token", json=_account(home, url))
    except httpx.HTTPError as error:
        raise does_not_answer(url, error) from error
    if answer.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.UNAUTHORIZED):
        raise Permanent(
            f"Airflow at {url} refuses this account", remedy="check SLIPWAY_USER and SLIPWAY_PASSWORD"
        )
    try:
        return str(answer.raise_for_status().json()["access_token"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise does_not_answer(url, error) from error


def _account(home: Home, url: str) -> dict[str, str]:
    user, password = os.environ.get("SLIPWAY_USER"), os.environ.get("SLIPWAY_PASSWORD")
    if user and password:
        return {"username": user, "password": password}
    if url != home.airflow_url:
        # This installation's password is nobody else's business.
        raise Permanent(f"nobody is signed in at {url}", remedy="set SLIPWAY_TOKEN, see docs/api.md")
    login = credentials_of(home)
    return {"username": login.airflow_user, "password": login.airflow_password}


def does_not_answer(url: str, error: Exception) -> Retryable:
    """Airflow is down, or it is something else that listens there."""
    return Retryable(
        f"Airflow at {url} does not answer ({type(error).__name__}: {error})",
        remedy="Start the stack with ./slipway up, or see ./slipway status.",
    )


def _problem(answer: httpx.Response) -> Permanent | Retryable:
    try:
        said = answer.json()
        detail, remedy = str(said["detail"]), str(said.get("remedy") or "see docs/api.md")
    except (ValueError, KeyError, TypeError):
        detail, remedy = f"{answer.status_code}: {answer.text[:200]}", "is this a Slipway's Airflow?"
    if answer.status_code == httpx.codes.CONFLICT:
        return ConflictAnswer(detail, remedy=remedy)
    if answer.is_server_error:
        return Retryable(detail, remedy=remedy)
    return Permanent(detail, remedy=remedy)


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
    """A session of whom `signed_in` names. Raises `Retryable` while Airflow is down."""
    with signed_in(home) as client:
        yield AirflowApi(client, home)


def _run(plain: dict[str, Any]) -> DagRun:
    return DagRun(plain["dag_id"], plain["dag_run_id"], plain["state"])
