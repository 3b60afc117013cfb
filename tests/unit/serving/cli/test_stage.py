"""Stages of a build as processes that share a bucket and nothing else: each has an empty home of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_store.build import build_bundle
from model_store.bundle.publishing import open_bundle
from model_store.check import CANDIDATE, FolderVersions
from model_store.release_spec import load
from model_store.stages.base import BuildContext
from model_store.storage.fetch import fetch
from model_store.storage.opening import open_storage
from model_store.storage.store import Store, open_store
from model_store.types import ModelRef
from tests import s3
from tests.small_models import save_churn

pytestmark = pytest.mark.at_length

REPOSITORY = Path(__file__).resolve().parents[4]
METRIC = "def cost(truth, said):\n    return -1.0 * (said.decisions != truth.classes)\n"
FP32 = {"precision": "fp32", "layout": "onnxruntime"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that somebody saved, rows, a metric of the user's own, and a spec of all that."""
    folder = tmp_path_factory.mktemp("stage")
    save_churn(folder)
    (folder / "cost.py").write_text(METRIC)
    spec = {
        "model": "churn",
        "source": {"flavor": "sklearn", "trusted": True},
        "data": {"evaluation": "evaluation.parquet", "calibration": "calibration.parquet", "label": "bad"},
        "precisions": ["fp32"],
        "targets": ["onnxruntime"],
        "gates": {"custom": [{"function": f"{folder}/cost.py:cost", "max_drop": 0.1}]},
        "rollout": {"steps": [{"weight": 100, "hold_seconds": 1}]},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return folder


@pytest.fixture(scope="module")
def s3_server() -> Iterator[s3.Server]:
    with s3.server() as started:
        yield started


class Machines:
    """Runs each command on a machine of its own, which knows the bucket and the keys."""

    def __init__(self, folder: Path, place: Path, bucket: dict[str, str]) -> None:
        self.folder, self.place, self.bucket = folder, place, bucket
        self.keys = folder / "keys.json"
        Store(folder / "installation", keys=self.keys).keyring()
        self._numbers = count()

    def environment(self) -> dict[str, str]:
        home = self.folder / f"machine{next(self._numbers)}"
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        own = {"HOME": str(home), "SLIPWAY_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
        return kept | own | self.bucket | {"SLIPWAY_BUNDLE_KEYS": str(self.keys)}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "serving.cli", "stage", *arguments]
        work = self.folder / "elsewhere"
        work.mkdir(exist_ok=True)
        return subprocess.Popen(
            command, cwd=work, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            **{"env": self.environment(), **options},
        )  # fmt: skip

    def run(self, stage: str, request: dict[str, Any], **more: Any) -> tuple[int, dict[str, Any]]:
        process = self.start(stage)
        out, told = process.communicate(json.dumps({**request, **more}).encode(), timeout=300)
        assert out, told.decode()
        return process.returncode, json.loads(out)

    def value(self, stage: str, request: dict[str, Any], **more: Any) -> str:
        status, answer = self.run(stage, request, **more)
        assert (status, answer["status"]) == (0, "done"), answer
        return str(answer["value"])

    def request(self) -> dict[str, Any]:
        process = self.start("request", str(self.place / "spec.yaml"), "--model", str(self.place / "model"))
        out, told = process.communicate(timeout=300)
        assert process.returncode == 0, told.decode()
        return dict(json.loads(out))

    def store(self, name: str) -> Store:
        return open_store(
            self.folder / name / "store", {**self.bucket, "SLIPWAY_BUNDLE_KEYS": str(self.keys)}
        )


@pytest.fixture
def machines(tmp_path: Path, place: Path, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> Machines:
    bucket = {**s3_server.environment, "SLIPWAY_STORAGE_URL": s3_server.url()}
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    return Machines(tmp_path, place, bucket)


def built_here(place: Path, folder: Path) -> str:
    """The id that one process makes of it, in a folder on its disk."""
    versions = FolderVersions({CANDIDATE: place / "model"})
    spec = load(place / "spec.yaml")
    ctx = BuildContext(Store(folder / "store"), versions, spec, ModelRef("churn", CANDIDATE), folder)
    return build_bundle(ctx).id


def test_seven_machines_build_what_one_does(
    machines: Machines, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = machines.request()
    exported = machines.value("export", request)
    checked, data = machines.run("check_data", request, exported=exported)
    quantized = machines.value("quantize", request, exported=exported, variant=FP32)
    compiled = machines.value("compile", request, quantized=quantized, target="onnxruntime")
    of_gate = {"exported": exported, "quantized": quantized, "compiled": [compiled]}

    killed = machines.start("gate")
    assert killed.stdin is not None
    assert killed.stderr is not None
    killed.stdin.write(json.dumps({**request, **of_gate}).encode())
    killed.stdin.close()
    killed.stdin = None
    while b"gate fp32" not in (line := killed.stderr.readline()):
        assert line, "it ended before it could be killed"
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL

    gated = machines.value("gate", request, **of_gate)
    status, chosen = machines.run("choose", request, gated=[gated], docs=data["docs"])
    assert (checked, status) == (0, 0)
    of_bundle = {"exported": exported, "gated": [gated], "chosen": chosen["value"]}
    hidden = machines.keys.rename(tmp_path / "hidden")
    status, unsigned = machines.run("publish", request, **of_bundle)
    assert status == 21
    assert "there are no keys here" in unsigned["problem"]
    hidden.rename(machines.keys)
    bundle = machines.value("publish", request, **of_bundle)

    assert bundle == built_here(place, tmp_path / "here")
    # Again, somewhere else: nothing is made twice, and nothing else comes of it.
    assert machines.value("gate", request, **of_gate) == gated
    assert (
        machines.value("publish", request, exported=exported, gated=[gated], chosen=chosen["value"]) == bundle
    )
    # The installation trusts it, and a pod can have it.
    assert open_bundle(machines.store("installation2"), bundle).id == bundle
    fetch(f"{machines.bucket['SLIPWAY_STORAGE_URL']}/bundles/{bundle}", tmp_path / "pod")
    assert (tmp_path / "pod" / "churn" / "1" / "model.onnx").is_file()
    # The docs of data and gates are one.
    from model_store.storage.store import unpack

    unpack(machines.store("installation2"), chosen["docs"], tmp_path / "docs")
    assert (tmp_path / "docs" / "index.html").is_file()


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({}, "spec: Field required"),
        ({"spec": "model: churn", "model": {"name": "churn", "version": 2}}, "source"),
        ({"stage": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_a_request_that_is_none_is_refused_field_by_field(
    machines: Machines, request_: dict[str, Any], says: str
) -> None:
    status, answer = machines.run("export", request_)
    assert (status, answer["status"]) == (21, "refused")
    assert says in answer["problem"] + answer["remedy"]


def test_a_stage_that_lacks_what_came_before_says_what(machines: Machines) -> None:
    request = machines.request()
    status, answer = machines.run("gate", request, exported="sha256:" + "0" * 64)
    assert (status, answer["problem"]) == (21, "the request has no quantized, compiled")
    status, answer = machines.run("quantize", request, exported="sha256:" + "0" * 64, variant=FP32)
    assert status == 21
    assert "there is no blobs/000" in answer["problem"]


def test_a_storage_that_is_away_is_a_reason_to_try_again(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = machines.request()
    machines.bucket["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    status, answer = machines.run("export", request)
    assert (status, answer["status"]) == (22, "retry")
    assert "nobody listens there" in answer["problem"]
    assert answer["delay_seconds"] > 0


def test_requests_and_answers_may_lie_in_the_storage(machines: Machines) -> None:
    request, url = machines.request(), machines.bucket["SLIPWAY_STORAGE_URL"]
    storage = open_storage(f"{url}/runs/r1")
    storage.put("request.json", json.dumps(request).encode())
    process = machines.start(
        "export", "--input", f"{url}/runs/r1/request.json", "--output", f"{url}/runs/r1/export.json"
    )
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told.decode()
    assert json.loads(storage.get("export.json"))["status"] == "done"


def test_what_every_version_failed_is_blocked_and_says_by_how_much(
    machines: Machines, place: Path, tmp_path: Path
) -> None:
    shutil.copytree(place, tmp_path / "strict")
    spec = yaml.safe_load((place / "spec.yaml").read_text())
    spec["gates"] = {"accuracy": {"max_drop": 0.1, "min": 0.9999}}
    (tmp_path / "strict" / "spec.yaml").write_text(yaml.safe_dump(spec))
    machines.place = tmp_path / "strict"
    request = machines.request()
    exported = machines.value("export", request)
    quantized = machines.value("quantize", request, exported=exported, variant=FP32)
    compiled = machines.value("compile", request, quantized=quantized, target="onnxruntime")
    gated = machines.value("gate", request, exported=exported, quantized=quantized, compiled=[compiled])
    status, answer = machines.run("choose", request, gated=[gated])
    assert (status, answer["status"]) == (20, "blocked")
    assert "accuracy" in answer["problem"]
