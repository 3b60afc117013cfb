"""What a pod gives must not depend on whose rows are in the same batch, and every row gets its own answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper
from pyarrow import parquet

from model_store.errors import Permanent
from model_store.export import ExportedModel, export
from model_store.release_spec import ReleaseSpec
from model_store.types import ModelRef, TensorSpec

ROWS = np.random.default_rng(1).normal(5, 2, size=(240, 4)).astype(np.float32)
WEIGHTS = np.stack([[-2, 2, 0, 0], [2, -2, 0, 0]], axis=1).astype(np.float32)
node = helper.make_node


def graph(
    *nodes: onnx.NodeProto, outputs: dict[str, list[Any]] | None = None, **constants: Any
) -> onnx.ModelProto:
    made = outputs or {"p": ["N", 2]}
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    weights = numpy_helper.from_array(WEIGHTS, "w")
    return helper.make_model(
        helper.make_graph(
            list(nodes),
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in made.items()],
            [weights, *values],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )


SCORES = (node("MatMul", ["x", "w"], ["logits"]), node("Softmax", ["logits"], ["p"]))


def exported(model: onnx.ModelProto, tmp_path: Path, **serving: Any) -> ExportedModel:
    folder = tmp_path / "logged"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "MLmodel").write_text("flavors:\n  onnx:\n    data: model.onnx\n")
    columns = {name: ROWS[:, place] for place, name in enumerate("abcd")}
    parquet.write_table(pa.table(columns | {"y": ROWS[:, 0] > 5}), tmp_path / "rows.parquet")
    spec = ReleaseSpec.model_validate(
        {
            "model": "m",
            "source": {"flavor": "onnx"},
            "data": {"evaluation": "e.csv", "calibration": "c.csv", "label": "y"},
            "serving": serving,
            "rollout": {"steps": [{"weight": 100, "hold_seconds": 1}]},
        }
    )
    return export(ModelRef("m", 1), spec, folder, tmp_path / "out", evaluation=tmp_path / "rows.parquet")


def refusal(model: onnx.ModelProto, tmp_path: Path, **serving: Any) -> Permanent:
    with pytest.raises(Permanent) as refused:
        exported(model, tmp_path, **serving)
    assert not (tmp_path / "out").exists()
    return refused.value


def normalized_by_its_batch() -> onnx.ModelProto:
    """Batch normalisation in training mode: alone, a row is its own mean."""
    return graph(
        node("ReduceMean", ["x", "rows"], ["mean"], keepdims=1),
        node("Sub", ["x", "mean"], ["centred"]),
        node("MatMul", ["centred", "w"], ["logits"]),
        node("Softmax", ["logits"], ["p"]),
        rows=np.array([0], np.int64),
    )


@pytest.mark.parametrize("max_batch_size", [1, 32, 256])
def test_a_model_whose_answers_depend_on_the_batch_is_refused(tmp_path: Path, max_batch_size: int) -> None:
    refused = refusal(normalized_by_its_batch(), tmp_path, max_batch_size=max_batch_size)

    assert "of 64 rows are answered otherwise in batches of 7 than alone" in refused.problem
    assert "p is [0.5, 0.5] alone" in refused.problem
    assert "model.eval()" in refused.remedy


def test_chance_is_refused_by_its_name_unless_the_spec_says_that_it_is_meant(tmp_path: Path) -> None:
    noisy = graph(
        node("RandomUniformLike", ["x"], ["noise"]),
        node("Add", ["x", "noise"], ["moved"]),
        node("MatMul", ["moved", "w"], ["logits"]),
        node("Softmax", ["logits"], ["p"]),
    )
    refused = refusal(noisy, tmp_path / "refused")
    assert "from one call to the next, by RandomUniformLike" in refused.problem
    assert "serving.stochastic" in refused.remedy

    assert exported(noisy, tmp_path / "meant", stochastic=True).outputs


def test_chance_that_changes_nothing_is_no_chance(tmp_path: Path) -> None:
    harmless = graph(
        node("RandomUniformLike", ["x"], ["noise"]),
        node("Mul", ["noise", "zero"], ["nothing"]),
        node("Add", ["x", "nothing"], ["same"]),
        node("MatMul", ["same", "w"], ["logits"]),
        node("Softmax", ["logits"], ["p"]),
        zero=np.float32(0),
    )

    assert exported(harmless, tmp_path).agreement.passed


@pytest.mark.parametrize(("keepdims", "shape"), [(0, [2]), (1, [1, 2])])
def test_one_answer_for_all_rows_is_refused(tmp_path: Path, keepdims: int, shape: list[int]) -> None:
    model = graph(
        *SCORES,
        node("ReduceMean", ["p", "rows"], ["mean"], keepdims=keepdims),
        outputs={"mean": ["N", 2] if keepdims else [2]},
        rows=np.array([0], np.int64),
    )

    assert f"output `mean` has shape {shape} for 32 rows" in refusal(model, tmp_path).problem


def test_an_output_that_no_input_reaches_is_not_served(tmp_path: Path) -> None:
    model = graph(
        *SCORES,
        node("Identity", ["three"], ["version"]),
        outputs={"p": ["N", 2], "version": [1]},
        three=np.array([3.0], np.float32),
    )
    served = exported(model, tmp_path)

    assert [output.name for output in served.outputs] == ["p"]
    assert [output.name for output in onnx.load(served.path).graph.output] == ["p"]
    assert served.notes == ("output `version` is not served: it is the same for every input",)


def test_nothing_but_constants_is_no_model(tmp_path: Path) -> None:
    model = graph(
        node("Identity", ["three"], ["version"]), outputs={"version": [1]}, three=np.ones(1, np.float32)
    )

    assert "no output of the model answers its rows: version" in refusal(model, tmp_path).problem


@pytest.mark.parametrize("declared", [["N", 3], [1, 2], ["N"], ["N", 2, 1]])
def test_what_is_served_is_declared_as_it_is_answered(tmp_path: Path, declared: list[Any]) -> None:
    """onnxruntime only warns where an output is not as declared: a Reshape by a computed shape hides it."""
    model = graph(
        *SCORES[:1],
        node("Softmax", ["logits"], ["soft"]),
        node("Shape", ["soft"], ["size"]),
        node("Reshape", ["soft", "size"], ["p"]),
        outputs={"p": declared},
    )

    assert exported(model, tmp_path).outputs == (TensorSpec("p", "FP32", (-1, 2)),)


def test_the_last_digits_of_a_rare_class_are_noise_however_small_its_probability(tmp_path: Path) -> None:
    rare = np.array([0, -14], np.float32)
    model = graph(
        node("MatMul", ["x", "w"], ["dot"]),
        node("Mul", ["dot", "none"], ["flat"]),
        node("Add", ["flat", "rare"], ["logits"]),
        node("Softmax", ["logits"], ["shares"]),
        node("ReduceMean", ["x"], ["company"], keepdims=0),
        node("Mul", ["company", "little"], ["noise"]),
        node("Add", ["shares", "noise"], ["p"]),
        none=np.float32(0),
        rare=rare,
        little=np.float32(1e-8),
    )
    assert exported(model, tmp_path).notes == ()
