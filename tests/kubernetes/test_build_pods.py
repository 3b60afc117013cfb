"""A release whose stages run as pods of a real cluster, by a real Airflow, from MLflow to users.

The tests tell one story in order; each starts from what the one before left.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.clients import DagRun
from model_store.storage.opening import open_storage
from tests import s3
from tests.e2e.stack import REPOSITORY, Stack, run, running_stack, wait_until
from tests.kubernetes import cluster as clusters
from tests.kubernetes.cluster import Cluster

pytestmark = [pytest.mark.kubernetes, pytest.mark.story, pytest.mark.timeout(1800)]

TRAINED, MODEL = "credit_risk", "loans"
RELEASE = f"release_{MODEL}"
STAGES = {"intake.export", "candidates.quantize", "candidates.compile", "candidates.gate"}
RESOURCES = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}}
PATIENCE_SECONDS = 800


@dataclass
class Builds:
    """A stack whose specs have stages run in a namespace of the cluster."""

    stack: Stack
    cluster: Cluster
    namespace: str
    url: str
    credentials: dict[str, str]

    def release(self, version: int) -> DagRun:
        return self.stack.platform.trigger(RELEASE, {"version": str(version)})

    def end_of(self, run: DagRun) -> DagRun:
        return self.stack.wait_for(run, seconds=PATIENCE_SECONDS)

    def pods(self, stage: str = "") -> list[dict[str, Any]]:
        label = f"slipway/stage={stage}" if stage else "slipway/stage"
        return list(self.cluster.get("pods", "-n", self.namespace, "-l", label)["items"])

    def pod_of(self, stage: str, phase: str = "Running") -> dict[str, Any]:
        """The first one that is so far."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [pod for pod in self.pods(stage) if pod["status"].get("phase") == phase]
            return bool(found)

        self.wait_until(is_there, f"a pod of {stage} to be {phase}")
        return found[0]

    def kill(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        self.cluster.kubectl("delete", "pod", name, "-n", self.namespace, "--wait=false")

    def tasks(self, run: DagRun, task_id: str) -> list[dict[str, Any]]:
        return [task for task in self.stack.platform.tasks(run) if task["task_id"] == task_id]

    def told(self, run: DagRun, task_id: str) -> str:
        return "\n".join(
            line for task in self.tasks(run, task_id) for line in self.stack.platform.log(run, task)
        )

    def answers(self, release: str) -> dict[str, str]:
        """What each stage of a release answered, by what it was asked."""
        storage = open_storage(self.url, self.credentials)
        found = [one.key for one in storage.list(f"builds/{release}") if one.key.endswith("answer.json")]
        return {key.split("/")[-2]: json.loads(storage.get(key))["value"] for key in found}

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, seconds=PATIENCE_SECONDS, what=what)


@pytest.fixture(scope="module")
def builds(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builds]:
    if not cluster.is_ours:
        pytest.skip("pods of another machine's cluster cannot reach a storage of this one")
    root = tmp_path_factory.mktemp("builds")
    addresses = cluster.get("nodes")["items"][0]["status"]["addresses"]
    node = next(each["address"] for each in addresses if each["type"] == "InternalIP")
    with cluster.namespace(enforce="restricted") as namespace, s3.server(address=node) as server:
        url, credentials = server.url(), dict(server.environment)
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "storage", "namespace": namespace},
        }
        cluster.apply({**secret, "stringData": credentials})
        write_kubernetes_yaml(root, cluster, namespace)
        no_proxy = f"{os.environ.get('NO_PROXY', 'localhost,127.0.0.1')},{node}"
        said = {"SLIPWAY_STORAGE_URL": url, "NO_PROXY": no_proxy, "no_proxy": no_proxy, **credentials}
        said["AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT"] = "180"
        dags = dags_in(root)
        with running_stack(root, AIRFLOW__CORE__DAGS_FOLDER=str(dags), **said) as stack:
            train(stack)
            stack.registry.copy(TRAINED, MODEL, count=4)
            stack.wait_for_dag(RELEASE)
            yield Builds(stack, cluster, namespace, url, credentials)


def write_kubernetes_yaml(root: Path, cluster: Cluster, namespace: str) -> None:
    said = {
        "kubeconfig": str(cluster.kubeconfig),
        "namespaces": [namespace],
        "builds": {
            "image": clusters.image_of("stage"),
            "image_pull_policy": "Never",
            "secret": "storage",
            "resources": RESOURCES,
        },
    }
    (root / "kubernetes.yaml").write_text(yaml.safe_dump(said))


def dags_in(root: Path) -> Path:
    """The repository's, with one spec: that of the stack's own tests, built in the cluster."""
    (root / "dags" / "releases").mkdir(parents=True)
    for path in (REPOSITORY / "dags").glob("*.py"):
        (root / "dags" / path.name).symlink_to(path)
    spec = yaml.safe_load((REPOSITORY / "tests" / "e2e" / "dags" / "releases" / f"{MODEL}.yaml").read_text())
    spec["build"] = {
        "place": "kubernetes",
        "kubernetes": {
            "schedule_timeout_seconds": 300,
            "stages": {"gate": {"resources": {"limits": {"nvidia.com/gpu": 1}}}},
        },
    }
    (root / "dags" / "releases" / f"{MODEL}.yaml").write_text(yaml.safe_dump(spec))
    return root / "dags"


def train(stack: Stack) -> None:
    done = run([sys.executable, "-m", "demo.models", "1"], environ=stack.environ, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_version_is_built_by_pods_and_promoted(builds: Builds) -> None:
    released = builds.end_of(builds.release(1))
    tasks = builds.stack.platform.tasks(released)
    assert {task["task_id"] for task in tasks if task["operator"] == "StagePod"} == STAGES
    assert released.state == "success", [task for task in tasks if task["state"] == "failed"]
    assert builds.stack.registry.tags(MODEL, 1)["slipway.status"] == "promoted"
    assert builds.pods() == []
