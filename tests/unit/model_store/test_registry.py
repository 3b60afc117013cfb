"""The registry port against a real MLflow server, also one that is killed and started again."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store.errors import Permanent, Retryable
from model_store.registry import Evidence, Registry, RegistryRefused, RegistryUnavailable, UnknownVersion
from model_store.registry import artifacts as artifact_store
from model_store.registry.artifacts import UnsafeArtifact
from model_store.registry.rest import Rest, _auth, _headers
from model_store.types import ModelRef
from tests.mlflow_server import MlflowServer, mlflow_server  # noqa: F401 - a fixture

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
MODEL = "fraud"

LOG_TWO_VERSIONS = """
import sys, warnings
warnings.simplefilter("ignore")
import mlflow, onnx, numpy as np
from mlflow.models import infer_signature
from onnx import TensorProto, helper, numpy_helper

mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("training")
x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 64]) for n in "xy")
for number in (1, 2):
    weights = numpy_helper.from_array(np.full((64, 64), number, np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    rows = np.zeros((1, 64), np.float32)
    with mlflow.start_run(tags={"mlflow.user": "ann"}):
        mlflow.log_params({"weight": number, "seed": 7})
        mlflow.onnx.log_model(model, name="model", registered_model_name=sys.argv[2],
                              signature=infer_signature({"x": rows}, {"y": rows}), pip_requirements=["onnx"])
client = mlflow.MlflowClient()
client.set_registered_model_alias(sys.argv[2], "candidate", 2)
client.update_model_version(sys.argv[2], 2, description="retrained")
"""


@pytest.fixture(scope="module")
def server(mlflow_server: MlflowServer) -> MlflowServer:  # noqa: F811
    """With two versions that MLflow's own client logged; `candidate` is the second."""
    command = [sys.executable, "-c", LOG_TWO_VERSIONS, mlflow_server.url, MODEL]
    subprocess.run(command, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin"})
    return mlflow_server


@pytest.fixture
def registry(server: MlflowServer) -> Registry:
    return Registry(server.url)


def test_a_number_and_an_alias_name_a_version(registry: Registry) -> None:
    assert registry.resolve(MODEL, "1") == ModelRef(MODEL, 1)
    assert registry.resolve(MODEL, "candidate") == ModelRef(MODEL, 2)
    assert registry.resolve(MODEL, " 2 ") == ModelRef(MODEL, 2)
    assert registry.resolve(MODEL, "latest") == ModelRef(MODEL, 2)


def test_a_version_knows_its_run_its_author_and_its_aliases(registry: Registry) -> None:
    version = registry.describe(ModelRef(MODEL, 2))

    assert version.aliases == ("candidate",)
    assert version.description == "retrained"
    assert len(version.run_id) == 32
    assert registry.authors(version.ref) == ("ann",)
    assert registry.run_url(version.run_id).endswith(f"/runs/{version.run_id}")
    assert registry.version_url(version.ref) == f"{registry.url}/#/models/{MODEL}/versions/2"
    assert abs((datetime.now(UTC) - version.created_at).total_seconds()) < 3600


def test_a_version_knows_what_its_training_was_given(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry.parameters(ModelRef(MODEL, 2)) == {"weight": "2", "seed": "7"}
    without_run = replace(registry.describe(ModelRef(MODEL, 2)), run_id="")
    monkeypatch.setattr(registry, "describe", lambda ref: without_run)
    assert registry.parameters(ModelRef(MODEL, 2)) is None


def test_an_author_who_is_renamed_in_a_tag_stays_one(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = {"info": {"user_id": "ann"}, "data": {"tags": [{"key": "mlflow.user", "value": "eve"}]}}
    monkeypatch.setattr(registry._rest, "get", _get_but_run(registry, run))
    assert registry.authors(ModelRef(MODEL, 2)) == ("eve", "ann")
    run["info"]["user_id"] = "unknown"
    assert registry.authors(ModelRef(MODEL, 2)) == ("eve",)


def _get_but_run(registry: Registry, run: Any) -> Any:
    get = registry._rest.get
    return lambda path, **query: {"run": run} if path == "/runs/get" else get(path, **query)


def test_all_versions_are_listed_with_their_aliases_the_newest_first(registry: Registry) -> None:
    assert [(v.ref.version, v.aliases) for v in registry.versions(MODEL)] == [(2, ("candidate",)), (1, ())]
    assert registry.aliases(MODEL) == {"candidate": 2}


@pytest.mark.parametrize("wanted", ["7", "champion", "0", "99999999999"])
def test_a_version_that_is_not_there_is_refused_with_those_that_are(registry: Registry, wanted: str) -> None:
    with pytest.raises(UnknownVersion) as refused:
        registry.resolve(MODEL, wanted)

    assert refused.value.remedy == "newest versions: 2, 1; aliases: candidate (version 2)"


def test_a_model_that_is_not_there_is_refused_with_those_that_are(registry: Registry) -> None:
    for ask in (lambda: registry.resolve("froud", "1"), lambda: registry.versions("froud")):
        with pytest.raises(UnknownVersion, match="no registered model `froud`") as refused:
            ask()
        assert MODEL in refused.value.remedy


@pytest.mark.parametrize("name", ["../fraud", "a/b", "", "fraud'", "..", "fraud%2f"])
def test_a_name_that_could_be_a_path_never_reaches_the_server(registry: Registry, name: str) -> None:
    for ask in (lambda: registry.resolve(name, "1"), lambda: registry.aliases(name)):
        with pytest.raises(Permanent, match="is no model name"):
            ask()


def test_a_download_is_every_file_and_a_digest_of_them_all(registry: Registry, tmp_path: Path) -> None:
    first = registry.download(ModelRef(MODEL, 1), tmp_path / "1", max_size_mb=10)
    again = registry.download(ModelRef(MODEL, 1), tmp_path / "again", max_size_mb=10)
    second = registry.download(ModelRef(MODEL, 2), tmp_path / "2", max_size_mb=10)

    assert {"MLmodel", "model.onnx"} <= {path.name for path in first.folder.iterdir()}
    # MLflow keeps weights beside the graph: 64 x 64 floats.
    assert any(path.stat().st_size >= 64 * 64 * 4 for path in first.folder.iterdir())
    assert first.digest == again.digest != second.digest
    assert first.size_bytes == sum(path.stat().st_size for path in first.folder.rglob("*") if path.is_file())
    (first.folder / "MLmodel").write_text("changed")
    assert artifact_store.describe(first.folder).digest != first.digest


def test_a_download_replaces_what_stood_in_its_folder(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "stale").write_text("x")

    registry.download(ModelRef(MODEL, 1), folder, max_size_mb=10)

    assert not (folder / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_above_the_limit_is_refused_before_it_is_copied(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UnsafeArtifact, match=r"the limit is 0\.001 MB") as refused:
        registry.download(ModelRef(MODEL, 1), tmp_path / "model", max_size_mb=0.001)

    assert "source.max_size_mb" in refused.value.remedy
    assert not (tmp_path / "model").exists()
    assert not list((tmp_path / "model.partial").iterdir())


def test_stores_that_clients_reach_themselves_are_left_to_mlflow(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / "MLmodel").write_text("flavors: {}")
    rest = Rest(registry.url)

    uri = (tmp_path / "logged").as_uri()
    found = artifact_store.download(rest, uri, tmp_path / "model", max_size_mb=1)

    assert (found.folder / "MLmodel").read_text() == "flavors: {}"
    with pytest.raises(Retryable, match="cannot be downloaded"):
        artifact_store.download(rest, (tmp_path / "gone").as_uri(), tmp_path / "model", max_size_mb=1)


def test_aliases_move_and_go_however_often_one_asks(registry: Registry) -> None:
    for version in (1, 1, 2):
        registry.set_alias(ModelRef(MODEL, version), "champion")
        assert registry.aliases(MODEL)["champion"] == version
    for _ in range(2):
        registry.delete_alias(MODEL, "champion")
    assert registry.aliases(MODEL) == {"candidate": 2}
    with pytest.raises(UnknownVersion):
        registry.set_alias(ModelRef(MODEL, 9), "champion")


def test_tags_are_set_replaced_cut_and_removed(registry: Registry) -> None:
    ref = ModelRef(MODEL, 1)
    registry.set_tags(ref, {"slipway.status": "releasing", "slipway.reason": "x" * 9000})
    registry.set_tags(ref, {"slipway.status": "blocked: accuracy = 0.7 < 0.8 / ä"})

    tags = registry.describe(ref).tags
    assert tags["slipway.status"] == "blocked: accuracy = 0.7 < 0.8 / ä"
    assert len(tags["slipway.reason"]) == 5000
    for _ in range(2):
        registry.delete_tags(ref, ["slipway.status", "slipway.reason"])
    assert registry.describe(ref).tags == {}
    with pytest.raises(UnknownVersion):
        registry.set_tags(ModelRef(MODEL, 9), {"a": "b"})


def evidence(folder: Path, **changes: Any) -> Evidence:
    (folder / "docs" / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "docs" / "index.html").write_text("<p>")
    (folder / "docs" / "deep" / "a page ä.html").write_text("<p>")
    (folder / "plot.png").write_bytes(b"png")
    said: dict[str, Any] = {
        "release_id": "fraud-v1-20261121T120000Z",
        "status": "FINISHED",
        "started_at": NOW,
        "ended_at": NOW,
        "description": "**v1** promoted",
        "params": {f"p{n}": n for n in range(120)} | {"spec": "y" * 7000},
        "metrics": {"int8/accuracy drop": 0.004, "slice Home=rent": 0.1, "undefined": float("nan")},
        "tags": {"slipway.status": "promoted"},
        "artifacts": {"data_docs": folder / "docs", "plots/p.png": folder / "plot.png"},
    }
    return Evidence(**said | changes)


def run_of(registry: Registry, run_id: str) -> dict[str, Any]:
    return dict(Rest(registry.url).get("/runs/get", run_id=run_id)["run"])


def test_a_version_is_described_unless_people_did(registry: Registry) -> None:
    registry.note(ModelRef(MODEL, 2), "released by Slipway")
    assert registry.describe(ModelRef(MODEL, 2)).description == "retrained"
    registry.note(ModelRef(MODEL, 1), "released by Slipway")
    registry.note(ModelRef(MODEL, 1), "released again")
    assert registry.describe(ModelRef(MODEL, 1)).description == "released by Slipway"


def test_evidence_is_a_run_that_the_version_links_to(registry: Registry, tmp_path: Path) -> None:
    ref = ModelRef(MODEL, 1)
    logged = registry.log_evidence(ref, evidence(tmp_path))

    run = run_of(registry, logged.run_id)
    assert registry.describe(ref).tags["slipway.evidence"] == logged.url
    assert run["info"]["status"] == "FINISHED"
    assert run["info"]["run_name"] == "fraud-v1-20261121T120000Z"
    assert len(run["data"]["params"]) == 121
    assert {m["key"]: m["value"] for m in run["data"]["metrics"]} == {
        "int8/accuracy drop": 0.004,
        "slice Home_rent": 0.1,
    }
    tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    assert (tags["slipway.model"], tags["slipway.version"], tags["slipway.status"]) == (
        MODEL,
        "1",
        "promoted",
    )
    rest, root = Rest(registry.url), artifact_store.artifact_path(run["info"]["artifact_uri"])
    assert {entry["path"] for entry in rest.list_artifacts(root)} == {"data_docs", "plots"}
    assert [entry["path"] for entry in rest.list_artifacts(f"{root}/data_docs/deep")] == ["a page ä.html"]
    # MLflow's own page of the run, and its API for files, know them too.
    listed = rest.get("/artifacts/list", run_id=logged.run_id, path="data_docs")["files"]
    assert {entry["path"] for entry in listed} == {"data_docs/deep", "data_docs/index.html"}


def test_evidence_written_twice_is_one_run_with_the_later_words(registry: Registry, tmp_path: Path) -> None:
    ref = ModelRef(MODEL, 1)
    said = {"release_id": "fraud-v1-twice"}
    first = registry.log_evidence(ref, evidence(tmp_path, **said))
    later = evidence(tmp_path, **said, status="FAILED", params={"p0": "other", "new": 1}, description="v2")
    second = registry.log_evidence(ref, later)

    run = run_of(registry, second.run_id)
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    assert first == second
    assert run["info"]["status"] == "FAILED"
    # MLflow's parameters are written once.
    assert (params["p0"], params["new"]) == ("0", "1")


def test_evidence_brings_a_deleted_experiment_back(registry: Registry, tmp_path: Path) -> None:
    logged = registry.log_evidence(ModelRef(MODEL, 1), evidence(tmp_path))
    rest = Rest(registry.url)
    rest.post("/experiments/delete", experiment_id=run_of(registry, logged.run_id)["info"]["experiment_id"])

    again = registry.log_evidence(ModelRef(MODEL, 1), evidence(tmp_path, release_id="fraud-v1-later"))

    assert run_of(registry, again.run_id)["info"]["status"] == "FINISHED"


def test_mlflow_that_is_down_is_told_within_seconds_and_served_again_when_it_is_back(
    server: MlflowServer, tmp_path: Path
) -> None:
    registry, ref = Registry(server.url), ModelRef(MODEL, 1)
    assert registry.is_up()
    server.kill()
    try:
        calls: list[Callable[[], Any]] = [
            lambda: registry.resolve(MODEL, "candidate"),
            lambda: registry.download(ref, tmp_path / "model", max_size_mb=10),
            lambda: registry.set_alias(ref, "champion"),
            lambda: registry.set_tags(ref, {"a": "b"}),
            lambda: registry.log_evidence(ref, evidence(tmp_path)),
            lambda: registry.versions(MODEL),
        ]
        for call in calls:
            started = time.monotonic()
            with pytest.raises(RegistryUnavailable, match="does not answer") as down:
                call()
            assert time.monotonic() - started < 4
            assert isinstance(down.value, Retryable)
            assert "slipway up" in down.value.remedy
        assert not registry.is_up()
    finally:
        server.start()

    assert registry.aliases(MODEL) == {"candidate": 2}
    assert registry.describe(ref).tags.get("a") is None


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that answers everything with the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_a_server_in_trouble_is_worth_another_try(status: int) -> None:
    with (
        answering(status, b"oops") as url,
        pytest.raises(RegistryUnavailable, match=f"status {status}: oops"),
    ):
        Registry(url).aliases(MODEL)


def test_a_wrong_password_is_not_worth_another_try() -> None:
    with answering(401, b"") as url, pytest.raises(RegistryRefused) as refused:
        Registry(url).resolve(MODEL, "1")

    assert "MLFLOW_TRACKING_USERNAME" in refused.value.remedy


@pytest.mark.parametrize("status", [200, 404])
def test_something_that_is_not_mlflow_is_named_as_such(status: int) -> None:
    with answering(status, b"<html>") as url, pytest.raises(Permanent, match="not an MLflow server"):
        Registry(url).aliases(MODEL)


def test_a_server_that_accepts_and_says_nothing_is_given_up_on() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        rest = Rest(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=httpx.Timeout(0.2))

        with pytest.raises(RegistryUnavailable, match="ReadTimeout"):
            rest.get("/registered-models/get", name=MODEL)


@pytest.mark.parametrize("name", ["..", "", "a/b", "../../etc/passwd", ".", "a\\b", "a\x00"])
def test_a_server_cannot_make_us_write_outside_the_folder(tmp_path: Path, name: str) -> None:
    listing = json.dumps({"files": [{"path": name, "is_dir": False, "file_size": 1}]}).encode()
    with answering(200, listing) as url, pytest.raises(UnsafeArtifact, match="lists a file named"):
        artifact_store.download(Rest(url), "mlflow-artifacts:/1/m", tmp_path / "m", max_size_mb=1)


def test_a_listing_without_end_is_given_up_on(tmp_path: Path) -> None:
    listing = json.dumps({"files": [{"path": "again", "is_dir": True}]}).encode()
    with answering(200, listing) as url, pytest.raises(UnsafeArtifact, match="20 levels"):
        artifact_store.download(Rest(url), "mlflow-artifacts:/1/m", tmp_path / "m", max_size_mb=1)


def test_a_version_without_files_is_refused(tmp_path: Path) -> None:
    with answering(200, b"{}") as url, pytest.raises(Permanent, match="has no files"):
        artifact_store.download(Rest(url), "mlflow-artifacts:/1/m", tmp_path / "m", max_size_mb=1)


def test_credentials_are_those_of_mlflows_own_client() -> None:
    assert _auth({}) is None
    assert _auth({"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "x"}) is not None
    assert _headers({"MLFLOW_TRACKING_TOKEN": "t"}) == {"Authorization": "Bearer t"}
    assert _headers({"MLFLOW_TRACKING_TOKEN": "t", "MLFLOW_TRACKING_USERNAME": "ann"}) == {}
