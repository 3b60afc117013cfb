"""Stages of a build as pods of a real cluster. Task, trigger and pods are real; Airflow is played."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from slipway_airflow.stage_pod import StagePod
from slipway_airflow.triggers import CooldownTrigger, StageTrigger

from model_store.check import CANDIDATE, FolderVersions
from model_store.errors import Retryable
from model_store.release_spec import ReleaseSpec, load
from model_store.steps import load_result
from model_store.types import ModelRef
from serving import composition
from serving.control.releases import Release, Request
from serving.control.wiring import Services
from serving.home import Home, Ports
from tests import s3
from tests.kubernetes import cluster as clusters
from tests.kubernetes.cluster import Cluster
from tests.small_models import save_churn

# Somebody asks every module that is imported for a name, and Airflow tells of its old ones.
OLD_NAMES = pytest.mark.filterwarnings("ignore:The `airflow")
pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900), OLD_NAMES]

SMALL = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}}
FP32 = {"precision": "fp32", "layout": "onnxruntime"}
PATIENCE_SECONDS = 300
# Somebody's own metric, which looks for the credentials of what runs it.
CURIOUS = """
import os

def cost(truth, said):
    assert not [name for name in os.environ if name.startswith("AWS_")], "in the environment"
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = open(f"/proc/{process}/environ").read()
        except OSError:
            continue
        assert "AWS_SECRET_ACCESS_KEY" not in text, f"of process {process}"
    return -1.0 * (said.decisions != truth.classes)
"""


@dataclass
class Bench:
    """A release whose stages run in a namespace of the cluster."""

    cluster: Cluster
    namespace: str
    services: Services
    release: Release
    pushed: dict[str, Any] = field(default_factory=dict)

    def task(self, stage: str, **handed_on: Any) -> StagePod:
        return StagePod(task_id=stage, stage=stage, release=self.release.id, **handed_on)

    def asking(self, **kubernetes: Any) -> Bench:
        """The same with a spec that asks for something else."""
        spec = self.release.spec.model_dump(mode="json")
        spec["build"]["kubernetes"] = kubernetes
        release = replace(self.release, spec=ReleaseSpec.model_validate(spec))
        return replace(self, release=release)

    def context(self) -> Any:
        ti = SimpleNamespace(
            dag_id="release_churn", task_id="export", run_id="run", map_index=-1, try_number=1,
            start_date=datetime.now(UTC), xcom_push=self.pushed.__setitem__,
        )  # fmt: skip
        return {"ti": ti, "run_id": "run", "dag": SimpleNamespace(parent_dag=None)}

    def begin(self, task: StagePod) -> TaskDeferred:
        """Until it waits."""
        with pytest.raises(TaskDeferred) as waits:
            task.execute(self.context())
        return waits.value

    def end(self, task: StagePod, waits: TaskDeferred) -> Any:
        """Until it has ended, as Airflow's triggerer and a worker bring it there."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not (event := self.look(waits)):
            assert time.monotonic() < until, "the pod did not end"
            time.sleep(0.5)
        method = getattr(task, waits.method_name)
        try:
            return method(self.context(), event, **(waits.kwargs or {}))
        except TaskDeferred as again:
            return self.end(task, again)

    def look(self, waits: TaskDeferred) -> str | None:
        trigger = waits.trigger
        assert isinstance(trigger, StageTrigger | CooldownTrigger)
        with suppress(Retryable):
            return trigger.look()
        return None

    def run(self, stage: str, **handed_on: Any) -> Any:
        task = self.task(stage, **handed_on)
        return self.end(task, self.begin(task))

    def pods(self) -> list[dict[str, Any]]:
        """Those that are not ending."""
        found = self.cluster.get("pods", "-n", self.namespace, "-l", "slipway/stage")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < until, what
            time.sleep(0.3)

    def running_pod(self) -> str:
        self.wait_for(
            lambda: [pod["status"].get("phase") for pod in self.pods()] == ["Running"], "no pod runs"
        )
        return str(self.pods()[0]["metadata"]["name"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that somebody saved, rows, and a spec of both."""
    folder = tmp_path_factory.mktemp("place")
    save_churn(folder)
    spec = {
        "model": "churn",
        "source": {"flavor": "sklearn", "trusted": True},
        "data": {
            "evaluation": str(folder / "evaluation.parquet"),
            "calibration": str(folder / "calibration.parquet"),
            "label": "bad",
        },
        "precisions": ["fp32"],
        "targets": ["onnxruntime"],
        "build": {"place": "kubernetes"},
        "gates": {"custom": [{"function": f"{folder}/cost.py:cost", "max_drop": 0.1}]},
        "rollout": {"steps": [{"weight": 100, "hold_seconds": 1}]},
    }
    (folder / "cost.py").write_text(CURIOUS)
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return folder


@pytest.fixture(scope="module")
def bucket(cluster: Cluster) -> Iterator[tuple[str, dict[str, str]]]:
    """At the address by which nodes know this machine."""
    if not cluster.is_ours:
        pytest.skip("pods of another machine's cluster cannot reach a storage of this one")
    addresses = cluster.get("nodes")["items"][0]["status"]["addresses"]
    node = next(each["address"] for each in addresses if each["type"] == "InternalIP")
    with pytest.MonkeyPatch.context() as patch, s3.server(address=node) as server:
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, f"{os.environ.get(name, 'localhost,127.0.0.1')},{node}")
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server.url(), dict(server.environment)


@pytest.fixture(scope="module")
def namespace(cluster: Cluster, bucket: tuple[str, dict[str, str]]) -> Iterator[str]:
    with cluster.namespace(enforce="restricted") as name:
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "storage", "namespace": name}}
        cluster.apply({**secret, "stringData": bucket[1]})
        yield name


@pytest.fixture(scope="module")
def stage_image(cluster: Cluster) -> str:
    return clusters.image_of("stage")


@pytest.fixture
def bench(
    cluster: Cluster,
    place: Path,
    bucket: tuple[str, dict[str, str]],
    namespace: str,
    stage_image: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    # Of its own: nothing is remembered from test to test.
    monkeypatch.setenv("SLIPWAY_STORAGE_URL", f"{bucket[0]}/{tmp_path.name}")
    builds = {
        "image": stage_image, "image_pull_policy": "Never", "secret": "storage", "resources": SMALL,
    }  # fmt: skip
    said = {"kubeconfig": str(cluster.kubeconfig), "namespaces": [namespace], "builds": builds}
    (tmp_path / "kubernetes.yaml").write_text(yaml.safe_dump(said))
    versions: Any = FolderVersions({CANDIDATE: place / "model"})
    services = replace(composition.wire(Home(tmp_path, Ports())), registry=versions)
    services.store.keyring()
    asked = Request("release_churn", "run", datetime.now(UTC), str(CANDIDATE), "", "a person", False)
    release = Release(
        f"churn-{tmp_path.name}", ModelRef("churn", CANDIDATE), load(place / "spec.yaml"), asked
    )
    made = Bench(cluster, namespace, services, release)
    current = [made]
    monkeypatch.setattr(Bench, "asking", _remembering(Bench.asking, current))
    monkeypatch.setattr(composition, "opened", lambda _: (current[-1].services, current[-1].release))
    yield made
    composition.stage_cluster_of(services.home).end_all(release.id)


def _remembering(asking: Callable[..., Bench], current: list[Bench]) -> Callable[..., Bench]:
    def remembered(bench: Bench, **kubernetes: Any) -> Bench:
        current.append(asking(bench, **kubernetes))
        return current[-1]

    return remembered


def test_four_stages_are_pods_and_leave_what_one_process_would(bench: Bench) -> None:
    exported = bench.run("export")
    quantized = bench.run("quantize", exported=exported, variant=FP32)
    compiled = bench.run("compile", quantized=quantized, target="onnxruntime")
    gated = bench.run("gate", exported=exported, quantized=quantized, compiled=[compiled])
    report = load_result(bench.services.store, gated)["report"]
    assert report["checks"]
    assert all(check["passed"] for check in report["checks"])
    # It ran, and found no credentials.
    assert any("cost" in check["name"] for check in report["checks"])
    assert bench.pods() == []
    # What was made is found again: no pod is needed for it.
    assert bench.task("export").execute(bench.context()) == exported


def test_a_pod_is_confined_and_holds_no_secret_in_its_description(bench: Bench) -> None:
    task = bench.task("export")
    waits = bench.begin(task)
    (pod,) = bench.pods()
    assert "serviceaccount" not in str(pod["spec"].get("volumes"))
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["activeDeadlineSeconds"] == 1800
    assert s3.WRITER[1] not in str(pod)
    assert pod["metadata"]["labels"]["dag_id"] == "release_churn"
    bench.end(task, waits)


def test_a_pod_deleted_by_hand_is_another_try_and_makes_the_same(bench: Bench) -> None:
    task = bench.task("export")
    waits = bench.begin(task)
    bench.cluster.kubectl("delete", "pod", bench.running_pod(), "-n", bench.namespace, "--wait=false")
    with pytest.raises(Retryable, match="deleted"):
        bench.end(task, waits)
    assert len(load_result(bench.services.store, bench.run("export"))["artifact"]["digest"]) > 60
    assert bench.pods() == []


def test_an_evicted_pod_is_another_try_and_says_by_whom(bench: Bench) -> None:
    task = bench.task("export")
    waits = bench.begin(task)
    name = bench.running_pod()
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": bench.namespace},
    }
    path = f"/api/v1/namespaces/{bench.namespace}/pods/{name}/eviction"
    bench.cluster.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction))
    with pytest.raises(Retryable, match=r"deleted|ended the pod"):
        bench.end(task, waits)
    assert bench.run("export")
    assert bench.pods() == []


def test_a_pod_that_needs_more_memory_is_told_with_its_limit(bench: Bench) -> None:
    small = bench.asking(resources={"requests": {"memory": "48Mi"}, "limits": {"memory": "48Mi"}})
    with pytest.raises(Retryable, match="more memory than its limit, 48Mi"):
        small.run("export")
    assert small.pods() == []


def test_a_pod_for_which_there_is_no_room_waits_and_says_what_is_lacking(bench: Bench) -> None:
    much = bench.asking(resources={"limits": {"nvidia.com/gpu": 64}}, schedule_timeout_seconds=600)
    task = much.task("export")
    waits = much.begin(task)
    cluster = composition.stage_cluster_of(much.services.home)
    named = {key: waits.trigger.kwargs[key] for key in ("namespace", "name", "uid")}  # type: ignore[attr-defined]

    def told() -> bool:
        state = cluster.state(**named, waits=60)
        return state.is_running and "lack nvidia.com/gpu (it asks for 64)" in state.words

    much.wait_for(told, "nobody says what is lacking")
    late = cluster.state(**named, waits=0)
    assert late.phase == "failed"
    assert "schedule_timeout_seconds" in late.words
    asyncio.run(waits.trigger.on_kill())  # type: ignore[union-attr]
    much.wait_for(lambda: much.pods() == [], "the pod is left")


def test_an_image_that_is_nowhere_ends_it_at_once(bench: Bench) -> None:
    with pytest.raises(AirflowFailException, match=r"docker\.io/library/nowhere:1 cannot be pulled"):
        bench.asking(image="docker.io/library/nowhere:1").run("export")
    assert bench.pods() == []


def test_a_second_try_waits_for_the_pod_of_the_first(bench: Bench) -> None:
    first, second = bench.task("export"), bench.task("export")
    waits = bench.begin(first)
    (uid,) = [pod["metadata"]["uid"] for pod in bench.pods()]
    again = bench.begin(second)
    assert again.trigger.kwargs["uid"] == waits.trigger.kwargs["uid"] == uid  # type: ignore[attr-defined]
    assert bench.end(second, again)
    assert bench.pods() == []


def test_what_the_stage_refuses_is_the_models_and_is_said_in_its_words(bench: Bench) -> None:
    exported = bench.run("export")
    with pytest.raises(AirflowFailException, match="0" * 40):
        bench.run("quantize", exported="sha256:" + "0" * 64, variant=FP32)
    assert exported
    assert bench.pods() == []


def test_a_full_quota_is_waited_for(bench: Bench) -> None:
    """One pod has room, and another one not beside it."""
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "narrow", "namespace": bench.namespace},
        "spec": {"hard": {"requests.cpu": "150m"}},
    }
    bench.cluster.apply(quota)
    try:
        bench.wait_for(
            lambda: "hard" in bench.cluster.get("resourcequota", "narrow", "-n", bench.namespace)["status"],
            "the quota is not known",
        )
        assert isinstance(bench.begin(bench.task("export")).trigger, StageTrigger)
        waits = bench.begin(bench.task("quantize", exported="sha256:" + "1" * 64, variant=FP32))
        assert isinstance(waits.trigger, CooldownTrigger)
        assert waits.method_name == "begin_again"
    finally:
        bench.cluster.kubectl("delete", "resourcequota", "narrow", "-n", bench.namespace)


def test_pods_of_a_release_that_is_over_are_ended_and_others_stay(bench: Bench) -> None:
    waits = bench.begin(bench.task("export"))
    cluster = composition.stage_cluster_of(bench.services.home)
    assert cluster.end_orphans(lambda release: release != bench.release.id) == []
    assert len(bench.pods()) == 1
    assert cluster.end_orphans(lambda release: release == bench.release.id) == [waits.trigger.kwargs["name"]]  # type: ignore[attr-defined]
    bench.wait_for(lambda: bench.pods() == [], "the pod is left")
