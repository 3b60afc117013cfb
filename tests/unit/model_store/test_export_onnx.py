"""ONNX versions: what is taken over as it is, and what is refused before anything runs it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from pyarrow import parquet

from model_store.durable import digest_file
from model_store.errors import Permanent
from model_store.export import ExportedModel, NotExportable, export
from model_store.export.onnx_file import read_onnx
from model_store.inference import answer, open_session
from model_store.release_spec import ReleaseSpec
from model_store.types import ModelRef, TensorSpec

REF = ModelRef("fraud", 1)
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10

Make = Callable[..., Path]


def value(name: str, shape: list[Any] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def linear(
    *,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    nodes: list[onnx.NodeProto] | None = None,
    weights: np.ndarray[Any, Any] = WEIGHTS,
) -> onnx.ModelProto:
    """scores = x @ w, [N, 4] to [N, 3]."""
    graph = helper.make_graph(
        nodes or [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        "linear",
        inputs or [value("x", ["N", 4])],
        outputs or [value("scores", ["N", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def tensor(name: str | None, dtype: str, shape: list[int]) -> dict[str, Any]:
    named = {"name": name} if name else {}
    return {**named, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}


@pytest.fixture
def logged(tmp_path: Path) -> Make:
    """A model folder as MLflow lays it out, with this ONNX file and this signature."""

    def make(model: onnx.ModelProto | bytes, signature: dict[str, Any] | None = None, **mlmodel: Any) -> Path:
        folder = tmp_path / "logged"
        folder.mkdir(exist_ok=True)
        content = model if isinstance(model, bytes) else model.SerializeToString()
        (folder / "model.onnx").write_bytes(content)
        said = {key: json.dumps(fields) for key, fields in (signature or {}).items()} or None
        flavors = {"onnx": {"data": "model.onnx"}, "python_function": {"loader_module": "mlflow.onnx"}}
        (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors, "signature": said} | mlmodel))
        return folder

    return make


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    rows = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    columns = {name: rows[:, place] for place, name in enumerate("abcd")}
    parquet.write_table(pa.table(columns | {"bad": rows[:, 0] > 0}), tmp_path / "evaluation.parquet")
    return tmp_path / "evaluation.parquet"


def spec(**source: Any) -> ReleaseSpec:
    return ReleaseSpec.model_validate(
        {
            "model": "fraud",
            "source": {"flavor": "onnx", **source},
            "data": {"evaluation": "e.csv", "calibration": "c.csv", "label": "bad"},
            "rollout": {"steps": [{"weight": 100, "hold_seconds": 1}]},
        }
    )


def run(folder: Path, evaluation: Path, said: ReleaseSpec | None = None) -> ExportedModel:
    return export(REF, said or spec(), folder, folder.parent / "out", evaluation=evaluation)


def refusal(folder: Path, evaluation: Path, said: ReleaseSpec | None = None) -> Permanent:
    with pytest.raises(Permanent) as refused:
        run(folder, evaluation, said)
    assert refused.value.remedy
    assert not (folder.parent / "out" / "export.json").exists()
    return refused.value


def test_a_model_with_its_weights_inside_is_taken_byte_for_byte(logged: Make, evaluation: Path) -> None:
    folder = logged(linear(), {"inputs": [tensor("x", "float32", [-1, 4])]})
    exported = run(folder, evaluation)

    assert exported.path.read_bytes() == (folder / "model.onnx").read_bytes()
    assert exported.digest == digest_file(folder / "model.onnx")
    assert exported.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert exported.outputs == (TensorSpec("scores", "FP32", (-1, 3)),)
    assert exported.columns == {"x": ("a", "b", "c", "d")}
    assert (exported.agreement.observed, exported.agreement.passed) == (0, True)
    assert exported.original_answers()["scores"].shape == (50, 3)
    assert exported.dataset_digest == digest_file(evaluation)
    assert ExportedModel.read(exported.path.parent) == exported


def test_external_data_in_the_folder_is_put_inside_the_one_file(logged: Make, evaluation: Path) -> None:
    folder = logged(external("weights/w.bin"))
    (folder / "weights").mkdir()
    (folder / "weights" / "w.bin").write_bytes(WEIGHTS.tobytes())
    first = run(folder, evaluation)
    content = first.path.read_bytes()
    again = run(folder, evaluation)

    assert content == again.path.read_bytes()
    rows = {"x": np.eye(4, dtype=np.float32)}
    np.testing.assert_array_equal(answer(open_session(content), rows)["scores"], WEIGHTS)


def test_models_as_mlflow_saves_them_are_read(tmp_path: Path, evaluation: Path) -> None:
    import mlflow.onnx
    from mlflow.models import infer_signature

    wide = np.ones((4, 400), np.float32)
    model = linear(weights=wide, outputs=[value("scores", ["N", 400])])
    signature = infer_signature(
        {"x": np.zeros((1, 4), np.float32)}, {"scores": np.zeros((1, 400), np.float32)}
    )
    folder = tmp_path / "logged"
    mlflow.onnx.save_model(model, str(folder), signature=signature, pip_requirements=["onnx"])
    # MLflow keeps tensors above 1 KB in a file of their own.
    assert (folder / "model.onnx").stat().st_size < wide.nbytes

    assert run(folder, evaluation).size_bytes > wide.nbytes


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(logged: Make, evaluation: Path, share: float) -> None:
    content = linear().SerializeToString()
    refused = refusal(logged(content[: int(share * len(content))]), evaluation)

    assert "model.onnx" in refused.problem
    assert "log the model again" in refused.remedy or "export it again" in refused.remedy


@pytest.mark.parametrize("content", [b"garbage" * 100, b"\x80\x04\x95", bytes(1000), os.urandom(5000)])
def test_garbage_is_refused(logged: Make, evaluation: Path, content: bytes) -> None:
    assert "model.onnx" in refusal(logged(content), evaluation).problem


def test_valid_protobuf_with_an_impossible_graph_is_refused(logged: Make, evaluation: Path) -> None:
    nowhere = linear(nodes=[helper.make_node("MatMul", ["nowhere", "w"], ["scores"])])
    unknown = linear(nodes=[helper.make_node("Teleport", ["x", "w"], ["scores"])])

    assert "is not valid ONNX" in refusal(logged(nowhere), evaluation).problem
    assert "is not valid ONNX" in refusal(logged(unknown), evaluation).problem


def external(location: str, **entries: int) -> onnx.ModelProto:
    """Its weights' data in `location`."""
    model = linear()
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, entry in {"location": location, **entries}.items():
        weights.external_data.add(key=key, value=str(entry))
    return model


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/passwd", "a/../../secret.bin", "", ".", "link.bin", "linked/secret.bin"],
)
def test_external_data_outside_the_folder_is_never_read(
    logged: Make, evaluation: Path, tmp_path: Path, location: str
) -> None:
    folder = logged(external(location))
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "linked").symlink_to(tmp_path)
    refused = refusal(folder, evaluation)

    assert f"`{location}`" in refused.problem
    assert "outside the model's folder" in refused.problem or "is missing" in refused.problem


def test_a_link_to_a_file_of_the_same_folder_is_no_regular_file(logged: Make, evaluation: Path) -> None:
    folder = logged(external("link.bin"))
    (folder / "w.bin").write_bytes(WEIGHTS.tobytes())
    (folder / "link.bin").symlink_to("w.bin")

    assert "outside the model's folder" in refusal(folder, evaluation).problem


def test_a_path_hidden_where_exporters_put_none_is_found(tmp_path: Path) -> None:
    hidden = numpy_helper.from_array(WEIGHTS, "hidden")
    hidden.ClearField("raw_data")
    hidden.data_location = TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="/etc/passwd")
    indices = numpy_helper.from_array(np.array([0], np.int64))
    sparse = linear()
    sparse.graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=hidden, indices=indices, dims=[4, 3])
    )
    body = helper.make_graph([], "body", [], [], [hidden])
    branch = linear()
    branch.graph.node.append(helper.make_node("If", ["c"], ["o"], then_branch=body, else_branch=body))
    constant = linear()
    constant.graph.node.append(helper.make_node("Constant", [], ["k"], value=hidden))

    for model in (sparse, branch, constant):
        (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(NotExportable, match="outside the model's folder"):
            read_onnx(tmp_path / "model.onnx", max_size_mb=1)


@pytest.mark.parametrize(
    "entries", [{"offset": 40}, {"length": 10_000}, {"offset": -1}, {"offset": 10**15}, {"length": 4}]
)
def test_external_data_that_does_not_fit_its_file_is_refused(
    logged: Make, evaluation: Path, entries: dict[str, int]
) -> None:
    folder = logged(external("w.bin", **entries))
    (folder / "w.bin").write_bytes(WEIGHTS.tobytes())

    refusal(folder, evaluation)


def test_a_file_above_the_limit_is_refused_before_it_is_read(logged: Make, evaluation: Path) -> None:
    refused = refusal(
        logged(linear(weights=np.ones((4, 3000), np.float32))), evaluation, spec(max_size_mb=0.01)
    )

    assert "0.0 MB, the limit is 0.01 MB" in refused.problem
    assert "source.max_size_mb" in refused.remedy


def test_many_tensors_that_name_the_same_bytes_count_each_time(tmp_path: Path) -> None:
    model = external("w.bin")
    for place in range(100):
        again = model.graph.initializer.add()
        again.CopyFrom(model.graph.initializer[0])
        again.name = f"w{place}"
    (tmp_path / "w.bin").write_bytes(bytes(100_000))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(NotExportable, match=r"10\.1 MB, the limit is 1 MB"):
        read_onnx(tmp_path / "model.onnx", max_size_mb=1)


@pytest.mark.parametrize(
    ("signature", "complaint"),
    [
        ([tensor("y", "float32", [-1, 4])], "says input `y`, the ONNX model has inputs x"),
        ([tensor("x", "float32", [-1, 5])], "float32[-1, 5], the ONNX model has x FP32[-1, 4]"),
        ([tensor("x", "float32", [-1, 4, 1])], "float32[-1, 4, 1]"),
        ([tensor("x", "int64", [-1, 4])], "int64[-1, 4], the ONNX model has x FP32[-1, 4]"),
        (
            [tensor("x", "float32", [-1, 4]), tensor("z", "float32", [-1])],
            "says 2 inputs, the ONNX model has 1",
        ),
        ([{"type": "double", "name": name} for name in "abc"], "says 3 columns, the ONNX model has x FP32"),
    ],
)
def test_a_signature_of_another_model_is_refused(
    logged: Make, evaluation: Path, signature: list[dict[str, Any]], complaint: str
) -> None:
    refused = refusal(logged(linear(), {"inputs": signature}), evaluation)

    assert complaint in refused.problem
    assert "infer_signature" in refused.remedy


def test_a_signature_that_promises_other_outputs_is_refused(logged: Make, evaluation: Path) -> None:
    inputs = [tensor("x", "float32", [-1, 4])]
    wrong = {"inputs": inputs, "outputs": [tensor("probabilities", "float32", [-1, 3])]}
    unnamed = {"inputs": inputs, "outputs": [tensor(None, "int64", [-1])]}

    assert "output `probabilities`" in refusal(logged(linear(), wrong), evaluation).problem
    assert run(logged(linear(), unnamed), evaluation)


@pytest.mark.parametrize(
    "signature",
    [
        [tensor(None, "float32", [-1, 4])],
        [tensor("x", "float64", [-1, 4])],
        [tensor("x", "float32", [-1, -1])],
        [{"type": "double", "name": name} for name in "dcba"],
    ],
)
def test_a_signature_that_fits_is_taken(
    logged: Make, evaluation: Path, signature: list[dict[str, Any]]
) -> None:
    exported = run(logged(linear(), {"inputs": signature}), evaluation)

    order = ("d", "c", "b", "a") if signature[0]["type"] == "double" else ("a", "b", "c", "d")
    assert exported.columns == {"x": order}


def test_inputs_named_in_the_spec_that_the_model_lacks_are_refused(logged: Make, evaluation: Path) -> None:
    said = spec()
    data = said.data.model_copy(update={"inputs": {"image": ("a", "b", "c", "d")}})
    refused = refusal(logged(linear()), evaluation, said.model_copy(update={"data": data}))

    assert "data.inputs names ['image']" in refused.problem
    assert refused.remedy == "the model takes: x FP32[-1, 4]"


def test_rows_of_another_width_are_refused(logged: Make, evaluation: Path) -> None:
    model = linear(inputs=[value("x", ["N", 5])], weights=np.ones((5, 3), np.float32))

    assert (
        "4 columns (a, b, c, d) with 4 values a row do not fill input x"
        in refusal(logged(model), evaluation).problem
    )


def test_a_model_for_one_row_at_a_time_is_refused(logged: Make, evaluation: Path) -> None:
    model = linear(inputs=[value("x", [1, 4])], outputs=[value("scores", [1, 3])])

    assert "takes exactly 1 rows at once" in refusal(logged(model), evaluation).problem


def test_maps_and_shapeless_and_exotic_tensors_are_refused(logged: Make, evaluation: Path) -> None:
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    zipmap = linear(
        outputs=[helper.make_value_info("scores", helper.make_sequence_type_proto(maps))],
        nodes=[helper.make_node("SequenceConstruct", ["x"], ["scores"])],
    )
    cast = helper.make_node("Cast", ["scores"], ["half"], to=TensorProto.BFLOAT16)
    exotic = linear(
        nodes=[helper.make_node("MatMul", ["x", "w"], ["scores"]), cast],
        outputs=[value("half", ["N", 3], TensorProto.BFLOAT16)],
    )

    refused = refusal(logged(zipmap), evaluation)
    assert "output `scores` is a sequence" in refused.problem
    assert "zipmap=False" in refused.remedy
    assert "input `x` has no shape" in refusal(logged(linear(inputs=[value("x", [])])), evaluation).problem
    assert "output `half`" in refusal(logged(exotic), evaluation).problem


def test_a_model_that_answers_nan_is_refused_with_the_first_such_row(logged: Make, evaluation: Path) -> None:
    logarithm = [
        helper.make_node("MatMul", ["x", "w"], ["raw"]),
        helper.make_node("Log", ["raw"], ["scores"]),
    ]
    refused = refusal(logged(linear(nodes=logarithm)), evaluation)

    assert "answers NaN or infinity in output `scores` to" in refused.problem
    assert "of 50 rows, first to row" in refused.problem


def test_a_version_without_the_flavour_is_refused_with_those_it_has(logged: Make, evaluation: Path) -> None:
    refused = refusal(logged(linear(), flavors={"sklearn": {}, "python_function": {}}), evaluation)

    assert refused.problem == "the version was not logged as onnx; its flavours are python_function, sklearn"


def test_an_mlmodel_that_leads_out_of_its_folder_is_refused(
    logged: Make, evaluation: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.onnx").write_bytes(linear().SerializeToString())
    for path in ("../other.onnx", str(tmp_path / "other.onnx")):
        folder = logged(linear(), flavors={"onnx": {"data": path}})
        assert "outside its folder" in refusal(folder, evaluation).problem
    (folder / "link.onnx").symlink_to(tmp_path / "other.onnx")
    logged(linear(), flavors={"onnx": {"data": "link.onnx"}})
    assert "outside its folder" in refusal(folder, evaluation).problem
    assert "is not there" in refusal(logged(linear(), flavors={"onnx": {"data": "gone"}}), evaluation).problem


@pytest.mark.parametrize(
    "text", ["", "[", "a: b", "flavors: 5", "flavors: {onnx: 5}", "!!python/name:os.system"]
)
def test_an_mlmodel_that_is_none_is_refused(logged: Make, evaluation: Path, text: str) -> None:
    folder = logged(linear())
    (folder / "MLmodel").write_text(text)
    assert "cannot be read" in refusal(folder, evaluation).problem
    (folder / "MLmodel").unlink()
    assert "has no MLmodel file" in refusal(folder, evaluation).problem
