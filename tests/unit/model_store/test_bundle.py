"""Bundles: one id per content, every byte vouched for, and readable by Triton and by our own pod."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_store.bundle.publishing import BundleContents, load_bundle, publish, serving_model
from model_store.bundle.triton import model_config
from model_store.compile import CompileSpec, compiler
from model_store.errors import Permanent
from model_store.inference import answer, open_session
from model_store.storage.base import Corrupt, Missing
from model_store.storage.store import Store
from model_store.types import Artifact, Check, GateReport, ModelRef, TensorSpec, Toolchain
from tests.small_models import Credit, keep

INPUTS = (TensorSpec("input", "FP32", (-1, 29)),)
OUTPUTS = (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2)))
SERVING = {
    "runtime": "onnxruntime",
    "threads": 1,
    "max_batch_size": 32,
    "max_queue_delay_ms": 2.0,
    "timeout_ms": 1000,
    "replicas": 1,
    "latency_objective_ms": 250.0,
}
REPORT = GateReport("sha256:data", (Check("accuracy", 0.81, 0.8, True, "fine"),))


@pytest.fixture
def contents(store: Store, credit: Credit) -> BundleContents:
    source = keep(store, credit.onnx)
    served = compiler("onnxruntime", store).compile(source, CompileSpec(32))
    assert isinstance(served, Artifact)
    return BundleContents(
        model=ModelRef("credit_risk", 3),
        served=served,
        inputs=INPUTS,
        outputs=OUTPUTS,
        serving=SERVING,
        session_config={},
        warmup={"input": credit.evaluation["input"]},
        report=REPORT,
        ancestors=(source,),
        lineage={"mlflow_run_id": "abc"},
        evidence={"p50_ms": 0.02},
    )


def engine(store: Store, content: bytes, parent: str = "sha256:11") -> Artifact:
    return store.put(
        content,
        format="tensorrt_rtx",
        precision="fp32",
        parent_digest=parent,
        toolchain=Toolchain("tensorrt_rtx", "1.7.1", "SM80+"),
    )


def test_a_bundle_is_laid_out_as_a_triton_model_repository(store: Store, contents: BundleContents) -> None:
    bundle = publish(store, replace(contents, engines=(engine(store, b"plan"),)))
    files = sorted(str(path.relative_to(bundle.path)) for path in bundle.path.rglob("*") if path.is_file())
    assert files == [
        "credit_risk/1/model.onnx",
        "credit_risk/config.pbtxt",
        "engines/fp32-tensorrt_rtx-SM80+.onnx",
        "manifest.json",
        "warmup.npz",
    ]
    assert bundle.path == store.root / "bundles" / bundle.id
    assert len(bundle.id) == 24


def test_the_manifest_says_what_a_pod_must_know(store: Store, contents: BundleContents) -> None:
    bundle = publish(store, contents)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert manifest["model"] == {"name": "credit_risk", "version": 3}
    assert (manifest["platform"], manifest["precision"]) == ("onnxruntime", "fp32")
    assert manifest["file"] == "credit_risk/1/model.onnx"
    assert manifest["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 29]}]
    assert manifest["serving"] == SERVING
    assert manifest["digest"] == contents.served.digest
    assert set(manifest["files"]) == {"credit_risk/1/model.onnx", "credit_risk/config.pbtxt", "warmup.npz"}
    chain = {artifact["digest"]: artifact["parent_digest"] for artifact in manifest["artifacts"]}
    assert chain[contents.served.digest] == contents.ancestors[0].digest
    assert chain[contents.ancestors[0].digest] is None


def test_the_pod_reads_it(store: Store, contents: BundleContents) -> None:
    from model_store.engines.manifest import read_manifest

    bundle = publish(store, contents)
    manifest = read_manifest(bundle.path)
    assert (manifest.id, manifest.name, manifest.settings.max_batch_size) == (bundle.id, "credit_risk", 32)
    assert manifest.warmup is not None


def test_the_served_file_answers_the_warmup_rows(
    store: Store, contents: BundleContents, credit: Credit
) -> None:
    bundle = publish(store, contents)
    with np.load(bundle.path / "warmup.npz", allow_pickle=False) as warmup:
        rows = {name: warmup[name] for name in warmup.files}
    assert rows["input"].shape == (32, 29)
    path, config = serving_model(bundle)
    expected = answer(open_session(credit.onnx), rows)
    found = answer(open_session(path, config=config), rows)
    assert np.array_equal(found["label"], expected["label"])


# identity


def test_identical_contents_have_one_id_and_are_written_once(
    store: Store, contents: BundleContents, credit: Credit, tmp_path: Path
) -> None:
    first = publish(store, contents)
    stamp = (first.path / "manifest.json").stat().st_mtime_ns
    assert publish(store, contents).id == first.id
    assert (first.path / "manifest.json").stat().st_mtime_ns == stamp
    elsewhere = Store(tmp_path)
    assert publish(elsewhere, contents).id == first.id


def test_what_was_measured_is_not_part_of_the_identity(store: Store, contents: BundleContents) -> None:
    first = publish(store, contents)
    slower = replace(contents, evidence={"p50_ms": 9.9}, report=GateReport("sha256:data", ()))
    assert publish(store, slower).id == first.id


def test_an_engine_counts_by_what_it_was_built_from(store: Store, contents: BundleContents) -> None:
    builds = engine(store, b"plan 1"), engine(store, b"plan 2"), engine(store, b"plan 3", "sha256:22")
    ids = [publish(store, replace(contents, engines=(built,))).id for built in builds]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    "change",
    [
        {"model": ModelRef("credit_risk", 4)},
        {"model": ModelRef("credit_risk2", 3)},
        {"serving": {**SERVING, "max_batch_size": 16}},
        {"session_config": {"session.x64quantprecision": "1"}},
        {"outputs": OUTPUTS[1:]},
        {"warmup": {"input": np.zeros((2, 29), np.float32)}},
    ],
)
def test_whatever_changes_how_it_behaves_changes_the_id(
    store: Store, contents: BundleContents, change
) -> None:
    assert publish(store, contents).id != publish(store, replace(contents, **change)).id


# verification


def test_a_loaded_bundle_is_the_published_one(store: Store, contents: BundleContents) -> None:
    bundle = publish(store, contents)
    loaded = load_bundle(bundle.path)
    assert loaded == bundle
    assert loaded.report == REPORT
    assert loaded.model == ModelRef("credit_risk", 3)
    assert [artifact.digest for artifact in loaded.artifacts] == [contents.served.digest]
    assert loaded.artifacts[0].path.read_bytes() == contents.served.path.read_bytes()


@pytest.mark.parametrize("file", ["credit_risk/1/model.onnx", "credit_risk/config.pbtxt", "warmup.npz"])
def test_a_changed_file_is_refused_by_name(store: Store, contents: BundleContents, file: str) -> None:
    bundle = publish(store, contents)
    content = bytearray((bundle.path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.path / file).write_bytes(content)
    with pytest.raises(Corrupt, match=file):
        load_bundle(bundle.path)


def test_a_missing_file_is_refused_by_name(store: Store, contents: BundleContents) -> None:
    bundle = publish(store, contents)
    (bundle.path / "credit_risk" / "config.pbtxt").unlink()
    with pytest.raises(Missing, match=r"lacks credit_risk/config\.pbtxt"):
        load_bundle(bundle.path)


def test_a_file_somebody_added_is_refused(store: Store, contents: BundleContents) -> None:
    bundle = publish(store, contents)
    (bundle.path / "credit_risk" / "1" / "extra.so").write_bytes(b"x")
    with pytest.raises(Corrupt, match=r"extra\.so"):
        load_bundle(bundle.path)


def test_no_manifest_or_another_schema_is_refused(store: Store, contents: BundleContents) -> None:
    bundle = publish(store, contents)
    manifest = bundle.path / "manifest.json"
    record = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**record, "schema": 7}))
    with pytest.raises(Permanent, match="schema 7, this version reads 1"):
        load_bundle(bundle.path)
    manifest.write_text("{")
    with pytest.raises(Corrupt, match="not JSON"):
        load_bundle(bundle.path)
    manifest.unlink()
    with pytest.raises(Missing, match=r"no manifest\.json"):
        load_bundle(bundle.path)


# Triton


def parsed(text: str):
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_triton_reads_the_config(store: Store, contents: BundleContents) -> None:
    bundle = publish(store, contents)
    config = parsed((bundle.path / "credit_risk" / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == ("credit_risk", "onnxruntime", 32)
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    [given] = config.input
    assert (given.name, given.data_type, list(given.dims)) == ("input", 11, [29])  # TYPE_FP32
    label, probabilities = config.output
    assert (list(label.dims), label.HasField("reshape"), list(label.reshape.shape)) == ([1], True, [])
    assert list(probabilities.dims) == [2]
    assert config.parameters["intra_op_thread_count"].string_value == "1"


def test_a_model_without_a_free_batch_is_not_batched_by_triton() -> None:
    fixed = (TensorSpec("x", "FP32", (1, 4)),)
    config = parsed(model_config("m", fixed, (TensorSpec("y", "FP32", (-1, 4)),), SERVING))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [1, 4]
    assert not config.HasField("dynamic_batching")


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT64", "FP16", "FP32", "FP64", "BYTES"])
def test_every_datatype_has_tritons_name(datatype) -> None:
    tensors = (TensorSpec('odd "name"\\', datatype, (-1, 2)),)
    config = parsed(model_config("m", tensors, tensors, SERVING))
    assert config.input[0].name == 'odd "name"\\'
    assert config.input[0].data_type > 0


def test_text_in_the_warmup_needs_no_pickle(store: Store, contents: BundleContents) -> None:
    rows = {"input": contents.warmup["input"], "words": np.array([["ab"], ["ç"]], object)}
    bundle = publish(store, replace(contents, warmup=rows))
    with np.load(bundle.path / "warmup.npz", allow_pickle=False) as warmup:
        assert warmup["words"].tolist() == [["ab"], ["ç"]]
