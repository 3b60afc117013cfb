"""What a user's own programs speak to a stack with: the REST APIs of Airflow, Slipway and MLflow.

Nothing of the product is imported here, nor in the end-to-end tests, which use it, too: they go on holding,
word for word, when its code is moved or written anew. What a server refuses is httpx's `HTTPStatusError`,
and while one does not answer, its `TransportError`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

SLIPWAY = "/slipway/api/v1"
ENDED = ("success", "failed")
# Of releases in Slipway's API: those whose version got users' requests.
ROLLED_OUT = ("rolling_out", "paused", "frozen", "watching", "promoted", "rolled_back")

Json = dict[str, Any]


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
    """A session with Airflow's API server, where Slipway's API is too."""

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

    def import_errors(self) -> dict[str, str]:
        """DAG file -> the last line of why Airflow could not read it."""
        found = self.get("/api/v2/importErrors", limit=100)["import_errors"]
        return {error["filename"]: error["stack_trace"].strip().splitlines()[-1] for error in found}

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

    def tasks(self, run: DagRun) -> list[Json]:
        """The run's task instances, with Airflow's own fields."""
        found: list[Json] = self.get(f"{run.path}/taskInstances", limit=100)["task_instances"]
        return found

    def log(self, run: DagRun, task: Mapping[str, Any]) -> list[str]:
        """The messages of the task's last try."""
        path = f"{run.path}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        content = self.get(path, map_index=task["map_index"])["content"]
        return [str(line.get("event", "")) for line in content if isinstance(line, dict)]

    def model(self, name: str) -> Json:
        """What serves of a model and what is on its way (docs/api.md)."""
        found: Json = self.get(f"{SLIPWAY}/models/{name}")
        return found

    def release(self, release_id: str) -> Json:
        """Everything about one release (docs/api.md)."""
        found: Json = self.get(f"{SLIPWAY}/releases/{release_id}")
        return found

    def releases(self, model: str) -> list[Json]:
        """The model's releases, the newest first."""
        found: list[Json] = self.get(f"{SLIPWAY}/releases", model=model)["releases"]
        return found

    def shares(self, model: str) -> dict[int, float]:
        """Version -> percent of the model's requests that it gets, stable first."""
        return {one["version"]: one["weight"] for one in self.model(model)["serving"] if one["weight"]}

    def rolled_out(self, model: str) -> list[int]:
        """Every version that got requests, in the order of the releases."""
        found = (row for row in self.releases(model) if row["status"] in ROLLED_OUT)
        return [row["version"] for row in found][::-1]


class Registry:
    """MLflow, over its REST API: as whom MLflow's own variables name, where it wants to know."""

    def __init__(self, url: str) -> None:
        self.url = url
        account = (os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD"))
        login = httpx.BasicAuth(*account) if all(account) else None  # type: ignore[arg-type]  # both are there
        self._client = httpx.Client(base_url=f"{url}/api/2.0", auth=login, timeout=60, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def run_of(self, name: str, version: int) -> str:
        """The id of the run that logged the version's model."""
        return str(self._version(name, version)["run_id"])

    def tags(self, name: str, version: int) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in self._version(name, version).get("tags", [])}

    def set_tag(self, name: str, version: int, key: str, value: str) -> None:
        said = {"name": name, "version": str(version), "key": key, "value": value}
        self._post("model-versions/set-tag", said)

    def has(self, name: str, version: int) -> bool:
        asked = {"name": name, "version": str(version)}
        return self._client.get("/mlflow/model-versions/get", params=asked).is_success

    def champion(self, name: str) -> int | None:
        found = self._get("registered-models/get", name=name)
        aliases = {one["alias"]: int(one["version"]) for one in found["registered_model"].get("aliases", [])}
        return aliases.get("champion")

    def set_alias(self, name: str, version: int, alias: str) -> None:
        self._post("registered-models/alias", {"name": name, "alias": alias, "version": str(version)})

    def copy(self, source: str, name: str, *, count: int) -> None:
        """Register version 1 of `source` `count` times more, under another name."""
        described = self._version(source, 1)
        copy = {"name": name, "source": described["source"], "run_id": described["run_id"]}
        # MLflow believes a source of another model only with that model's id.
        copy["model_id"] = described["source"].removeprefix("models:/")
        self._post("registered-models/create", {"name": name})
        for _ in range(count):
            self._post("model-versions/create", copy)

    def metric(self, run_id: str, key: str) -> float | None:
        """The newest value that the run logged under this name."""
        logged = self._get("runs/get", run_id=run_id)["run"]["data"].get("metrics", [])
        return next((float(metric["value"]) for metric in logged if metric["key"] == key), None)

    def artifact(self, run_id: str, path: str) -> Any:
        """A JSON artifact of the run; of JSON lines (.jsonl) a list. None if it has none of this name."""
        # Asked for one that is not there, MLflow before an object store answers as if it were broken.
        listed = self._get("artifacts/list", run_id=run_id).get("files", [])
        if path not in {file["path"] for file in listed}:
            return None
        info = self._get("runs/get", run_id=run_id)["run"]["info"]
        root = info["artifact_uri"].removeprefix("mlflow-artifacts:/")
        answer = self._client.get(f"/mlflow-artifacts/artifacts/{root}/{path}")
        text = answer.raise_for_status().text
        return [json.loads(line) for line in text.splitlines()] if path.endswith("l") else json.loads(text)

    def _version(self, name: str, version: int) -> Json:
        found: Json = self._get("model-versions/get", name=name, version=str(version))["model_version"]
        return found

    def _get(self, path: str, **query: str) -> Any:
        return self._client.get(f"/mlflow/{path}", params=query).raise_for_status().json()

    def _post(self, path: str, said: Mapping[str, str]) -> None:
        self._client.post(f"/mlflow/{path}", json=said).raise_for_status()


def _run(plain: Mapping[str, Any]) -> DagRun:
    return DagRun(plain["dag_id"], plain["dag_run_id"], plain["state"])
