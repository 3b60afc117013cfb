"""What a user's own programs speak to a stack with: the REST APIs of Airflow, Slipway and MLflow.

Nothing of the product is imported here or in the tests of this folder: they go on holding, word for word,
when its code is moved or written anew.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from demo.traffic import Application

SLIPWAY = "/slipway/api/v1"
ENDED = ("success", "failed")
# Of releases in Slipway's API: those whose version got users' requests.
ROLLED_OUT = ("rolling_out", "paused", "frozen", "watching", "promoted", "rolled_back")


@dataclass(frozen=True)
class DagRun:
    """One run of a DAG, as Airflow's REST API told of it."""

    dag_id: str
    run_id: str
    state: str

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def path(self) -> str:
        return f"/api/v2/dags/{self.dag_id}/dagRuns/{self.run_id}"


class Platform:
    """A session with Airflow's API server, where Slipway's API is too. Raises where they refuse."""

    def __init__(self, url: str, *, user: str, password: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)
        login = {"username": user, "password": password}
        token = self._client.post("/auth/token", json=login).raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **query: Any) -> Any:
        return self._client.get(path, params=query).raise_for_status().json()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._client.post(path, json=body).raise_for_status().json()

    def dag_ids(self) -> list[str]:
        return [dag["dag_id"] for dag in self.get("/api/v2/dags", limit=100)["dags"]]

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> DagRun:
        return _run(self.post(f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": dict(conf)}))

    def pause(self, dag_id: str) -> None:
        """As the switch on Airflow's page does."""
        self._client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": True}).raise_for_status()

    def run(self, run: DagRun) -> DagRun:
        """The same run, as it is now."""
        return _run(self.get(run.path))

    def runs(self, dag_id: str) -> list[DagRun]:
        """The DAG's last runs, the newest first."""
        found = self.get(f"/api/v2/dags/{dag_id}/dagRuns", order_by="-run_after", limit=50)
        return [_run(run) for run in found["dag_runs"]]

    def tasks(self, run: DagRun) -> list[dict[str, Any]]:
        """The run's task instances, with Airflow's own fields."""
        found: list[dict[str, Any]] = self.get(f"{run.path}/taskInstances", limit=100)["task_instances"]
        return found

    def log(self, run: DagRun, task: Mapping[str, Any]) -> list[str]:
        """The messages of the task's last try."""
        path = f"{run.path}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        content = self.get(path, map_index=task["map_index"])["content"]
        return [str(line.get("event", "")) for line in content if isinstance(line, dict)]

    def model(self, name: str) -> dict[str, Any]:
        """What serves of a model and what is on its way (docs/api.md)."""
        found: dict[str, Any] = self.get(f"{SLIPWAY}/models/{name}")
        return found

    def releases(self, model: str) -> list[dict[str, Any]]:
        """The model's releases, the newest first."""
        found: list[dict[str, Any]] = self.get(f"{SLIPWAY}/releases", model=model)["releases"]
        return found

    def shares(self, model: str) -> dict[int, float]:
        """Version -> percent of the model's requests that it gets."""
        return {one["version"]: one["weight"] for one in self.model(model)["serving"] if one["weight"]}

    def rolled_out(self, model: str) -> list[int]:
        """Every version that got requests, in the order of the releases."""
        found = (row for row in self.releases(model) if row["status"] in ROLLED_OUT)
        return [row["version"] for row in found][::-1]


class Registry:
    """MLflow, over its REST API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=f"{url}/api/2.0/mlflow", timeout=60, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def tags(self, name: str, version: int) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in self._version(name, version).get("tags", [])}

    def set_tag(self, name: str, version: int, key: str, value: str) -> None:
        said = {"name": name, "version": str(version), "key": key, "value": value}
        self._client.post("/model-versions/set-tag", json=said).raise_for_status()

    def has(self, name: str, version: int) -> bool:
        asked = {"name": name, "version": str(version)}
        return self._client.get("/model-versions/get", params=asked).is_success

    def champion(self, name: str) -> int | None:
        found = self._client.get("/registered-models/get", params={"name": name}).raise_for_status().json()
        aliases = {one["alias"]: int(one["version"]) for one in found["registered_model"].get("aliases", [])}
        return aliases.get("champion")

    def set_alias(self, name: str, version: int, alias: str) -> None:
        said = {"name": name, "alias": alias, "version": str(version)}
        self._client.post("/registered-models/alias", json=said).raise_for_status()

    def copy(self, source: str, name: str, *, count: int) -> None:
        """Register version 1 of `source` `count` times more, under another name."""
        described = self._version(source, 1)
        copy = {"name": name, "source": described["source"], "run_id": described["run_id"]}
        # MLflow believes a source of another model only with that model's id.
        copy["model_id"] = described["source"].removeprefix("models:/")
        self._client.post("/registered-models/create", json={"name": name}).raise_for_status()
        for _ in range(count):
            self._client.post("/model-versions/create", json=copy).raise_for_status()

    def _version(self, name: str, version: int) -> dict[str, Any]:
        asked = {"name": name, "version": str(version)}
        answer = self._client.get("/model-versions/get", params=asked).raise_for_status().json()
        found: dict[str, Any] = answer["model_version"]
        return found


@dataclass
class Users(threading.Thread):
    """Ask a model at a steady rate. `failed`: answers that were no answers, since it first answered."""

    url: str
    rows: list[Application]
    rate_per_second: float = 30
    answered: int = 0
    failed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        with httpx.Client(timeout=10, trust_env=False) as client:
            asked = 0
            while not self._ended.wait(1 / self.rate_per_second):
                asked += 1
                self._ask(client, self.rows[asked % len(self.rows)])

    def _ask(self, client: httpx.Client, row: Application) -> None:
        try:
            status = client.post(self.url, content=row.body).status_code
        except httpx.HTTPError:
            return
        if status == httpx.codes.OK:
            self.answered += 1
        elif self.answered:
            self.failed.append(status)

    def end(self) -> None:
        self._ended.set()
        self.join()


@contextmanager
def asking(users: Users) -> Iterator[Users]:
    users.start()
    yield users
    users.end()


def _run(plain: Mapping[str, Any]) -> DagRun:
    return DagRun(plain["dag_id"], plain["dag_run_id"], plain["state"])
