"""fp16 and int8: the same bytes each time, no more harm than said, and what cannot be is a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from model_store.errors import Permanent
from model_store.inference import answer, fixed_batch, has_exact_int8, open_session, session_config
from model_store.quantize import LAYOUTS, NotQuantized, Search, UnknownPrecision, half, quantize
from model_store.quantize.exclude import QuantizedModel, Recipe, Units, search_exclusions
from model_store.quantize.int8 import Trial
from model_store.quantize.lower import lower
from model_store.quantize.prepare import NotOnnx, spread
from model_store.quantize.readout import Readout
from model_store.storage.store import Store
from model_store.types import Precision
from tests.bundles import elementwise, model_of
from tests.small_models import Array, Credit, Digits, Rows, keep

REPOSITORY = Path(__file__).resolve().parents[3]


def decisions(content: bytes, rows: Rows) -> Array:
    outputs = answer(open_session(content, config=session_config("int8")), rows)
    return Readout.find(outputs).decisions(outputs)


def accuracy(content: bytes, rows: Rows, labels: Array) -> float:
    return float(np.mean(decisions(content, rows) == labels))


def operators(content: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_model_from_string(content).graph.node}


# lowering


def test_scikit_learns_own_operators_become_core_onnx_with_the_same_answers(credit: Credit) -> None:
    original = onnx.load_model_from_string(credit.onnx)
    lowered = lower(original)
    assert {node.domain for node in original.graph.node} == {"", "ai.onnx.ml"}
    assert {node.domain for node in lowered.graph.node} == {""}
    before, after = (
        answer(open_session(model.SerializeToString()), credit.evaluation) for model in (original, lowered)
    )
    assert np.array_equal(before["label"], after["label"])
    assert np.abs(before["probabilities"] - after["probabilities"]).max() < 1e-6


def test_operators_nobody_taught_us_to_lower_stay(credit: Credit) -> None:
    node = helper.make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml", threshold=0.5)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, ["N", 2])], [value("y", TensorProto.FLOAT, ["N", 2])]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    assert lower(model).graph.node[0].op_type == "Binarizer"


@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_selecting_from_a_table_keeps_its_shape(shape: tuple[int, ...]) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("ArrayFeatureExtractor", ["table", "i"], ["y"], domain="ai.onnx.ml", name="afe")],
        "g",
        [value("i", TensorProto.INT64, ["N"])],
        [value("y", TensorProto.INT64, [1, "N"])],
        [numpy_helper.from_array(np.array([7, 8, 9]).reshape(shape), "table")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    rows = {"i": np.array([2, 0, 1, 1])}
    for content in (model.SerializeToString(), lower(model).SerializeToString()):
        assert open_session(content).run(["y"], rows)[0].tolist() == [[9, 7, 8, 8]]


# precisions


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_credit_model_keeps_its_accuracy(store: Store, credit: Credit, precision, layout) -> None:
    source = keep(store, credit.onnx)
    made = quantize(store, source, precision, layout, credit.calibration)
    assert not isinstance(made, NotQuantized)
    assert (made.precision, made.parent_digest) == (precision, source.digest)
    before = accuracy(credit.onnx, credit.evaluation, credit.labels)
    after = accuracy(made.path.read_bytes(), credit.evaluation, credit.labels)
    assert abs(before - after) < 0.01


@pytest.mark.parametrize(("precision", "share"), [("fp16", 0.55), ("int8", 0.36)])
def test_fewer_bits_are_a_smaller_file(store: Store, credit: Credit, precision, share: float) -> None:
    source = keep(store, credit.onnx)
    made = quantize(store, source, precision, "onnxruntime", credit.calibration)
    assert not isinstance(made, NotQuantized)
    assert made.size_bytes < share * source.size_bytes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_cnn_keeps_its_accuracy_in_int8(store: Store, digits: Digits, layout) -> None:
    before = accuracy(digits.onnx, digits.evaluation, digits.labels)
    assert before > 0.9, "the fixture is a real classifier"
    made = quantize(store, keep(store, digits.onnx), "int8", layout, digits.calibration)
    assert not isinstance(made, NotQuantized)
    assert "QuantizeLinear" in operators(made.path.read_bytes())
    assert before - accuracy(made.path.read_bytes(), digits.evaluation, digits.labels) < 0.01


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_model_of_one_batch_size_is_converted_and_answers_any_number_of_rows(
    store: Store, digits: Digits, precision, batch: int
) -> None:
    model = onnx.load_model_from_string(digits.onnx)
    for tensor in (model.graph.input[0], model.graph.output[0]):
        tensor.type.tensor_type.shape.dim[0].dim_value = batch
    made = quantize(
        store, keep(store, model.SerializeToString()), precision, "onnxruntime", digits.calibration
    )
    assert not isinstance(made, NotQuantized)
    rows = {"image": digits.evaluation["image"][:101]}
    assert fixed_batch(open_session(made.path)) == batch
    assert len(decisions(made.path.read_bytes(), rows)) == 101
    assert accuracy(made.path.read_bytes(), rows, digits.labels[:101]) > 0.85


def test_inputs_and_outputs_stay_fp32(store: Store, credit: Credit) -> None:
    made = quantize(store, keep(store, credit.onnx), "fp16", "onnxruntime", credit.calibration)
    assert not isinstance(made, NotQuantized)
    session = open_session(made.path)
    assert [i.type for i in session.get_inputs()] == ["tensor(float)"]
    assert [o.type for o in session.get_outputs()] == ["tensor(int64)", "tensor(float)"]


def test_features_beyond_fp16_do_not_become_infinity(store: Store, credit: Credit) -> None:
    assert credit.calibration["input"].max() > 65504, "the data has such a feature"
    made = quantize(store, keep(store, credit.onnx), "fp16", "onnxruntime", credit.calibration)
    assert not isinstance(made, NotQuantized)
    assert store.provenance(made.digest)["kept_fp32"] == ["Scaler/Sub", "Scaler/Mul"]
    large = {"input": credit.calibration["input"][credit.calibration["input"].max(axis=1) > 65504][:8]}
    # By the letter: onnxruntime on a CPU computes in fp32 and drops the very casts that overflow elsewhere.
    with np.errstate(all="ignore"):
        _, probabilities = ReferenceEvaluator(onnx.load(made.path)).run(None, large)
    expected = answer(open_session(credit.onnx), large)["probabilities"]
    assert np.abs(probabilities - expected).max() < 0.01


def test_a_tensor_that_several_nodes_in_fp32_read_is_cast_once(store: Store) -> None:
    """exp(x) / sum(exp(x)): e^12 is beyond fp16."""
    value = helper.make_tensor_value_info
    model = model_of(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="matmul"),
            helper.make_node("Exp", ["h"], ["powers"], name="exp"),
            helper.make_node("ReduceSum", ["powers", "axes"], ["whole"], keepdims=1, name="sum"),
            helper.make_node("Div", ["powers", "whole"], ["y"], name="div"),
        ],
        [value("x", TensorProto.FLOAT, ["N", 3])],
        [value("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"),
            numpy_helper.from_array(np.array([1]), "axes"),
        ],
    )
    rows = {"x": np.array([[12, 1, 1], [1, 2, 3]], np.float32)}
    made = quantize(store, keep(store, model.SerializeToString()), "fp16", "onnxruntime", rows)
    assert not isinstance(made, NotQuantized)
    assert store.provenance(made.digest)["kept_fp32"] == ["exp", "sum", "div"]
    expected = answer(open_session(model.SerializeToString()), rows)["y"]
    np.testing.assert_allclose(answer(open_session(made.path), rows)["y"], expected, rtol=1e-3)


def test_a_constant_that_is_a_plain_number_becomes_half_too(store: Store) -> None:
    """Exporters write `Constant(value_float=0.1)`; left in fp32 it made a file that onnxruntime refuses."""
    value = helper.make_tensor_value_info
    model = model_of(
        [
            helper.make_node("Constant", [], ["tenth"], value_float=0.1),
            helper.make_node("Mul", ["x", "tenth"], ["y"], name="scale"),
        ],
        [value("x", TensorProto.FLOAT, ["N", 3])],
        [value("y", TensorProto.FLOAT, ["N", 3])],
    )
    rows = {"x": np.ones((4, 3), np.float32)}
    content, _ = half.convert(model, rows)
    (found,) = open_session(content).run(None, rows)
    np.testing.assert_allclose(found, 0.1, rtol=1e-3)


def test_the_tensorrt_layout_is_signed_and_symmetric_with_fp32_biases(store: Store, digits: Digits) -> None:
    made = quantize(store, keep(store, digits.onnx), "int8", "tensorrt", digits.calibration)
    assert not isinstance(made, NotQuantized)
    model = onnx.load(made.path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    points = [
        constants[node.input[2]]
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert points
    assert all(point.dtype == np.int8 and not point.any() for point in points)
    assert {constants[name].dtype for name in ("b1", "b3")} == {np.dtype(np.float32)}


def test_weights_have_a_scale_per_channel(store: Store, digits: Digits) -> None:
    made = quantize(store, keep(store, digits.onnx), "int8", "onnxruntime", digits.calibration)
    assert not isinstance(made, NotQuantized)
    scales = {tensor.name: tensor.dims for tensor in onnx.load(made.path).graph.initializer}
    assert list(scales["w2_scale"]) == [24]


def test_quantizing_everything_ruins_the_credit_model_and_ours_does_not(store: Store, credit: Credit) -> None:
    """Why only the heavy operators are: 8 bits over raw features leave one decision for everyone."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    from model_store.quantize.int8 import KEEP_SCALES, _quiet, _reader
    from model_store.quantize.prepare import prepared

    naive, folder = store.root / "naive.onnx", store.root
    folder.mkdir(exist_ok=True)
    (folder / "credit.onnx").write_bytes(credit.onnx)
    onnx.save(prepared(folder / "credit.onnx", folder), folder / "prepared.onnx")
    with _quiet():
        quantize_static(
            folder / "prepared.onnx",
            naive,
            _reader(spread(credit.calibration, 320), 32),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options=KEEP_SCALES,
        )
    before = accuracy(credit.onnx, credit.evaluation, credit.labels)
    ruined = accuracy(naive.read_bytes(), credit.evaluation, credit.labels)
    made = quantize(store, keep(store, credit.onnx), "int8", "onnxruntime", credit.calibration)
    assert not isinstance(made, NotQuantized)
    assert before - ruined > 0.05
    assert before - accuracy(made.path.read_bytes(), credit.evaluation, credit.labels) < 0.01


# determinism


DIGESTS = """
import sys
import numpy as np
from pathlib import Path
from model_store.quantize import quantize
from model_store.storage.store import Store
from tests.small_models import keep
store = Store(Path(sys.argv[1]))
source = keep(store, Path(sys.argv[2]).read_bytes())
rows = {"input": np.load(sys.argv[3])}
for precision in ("fp32", "fp16", "int8"):
    for layout in ("onnxruntime", "tensorrt"):
        print(quantize(store, source, precision, layout, rows).digest)
"""


def test_the_same_inputs_give_the_same_bytes_in_any_process(tmp_path: Path, credit: Credit) -> None:
    (tmp_path / "model.onnx").write_bytes(credit.onnx)
    np.save(tmp_path / "rows.npy", credit.calibration["input"])
    seen = {
        subprocess.run(
            [sys.executable, "-c", DIGESTS, tmp_path / seed, tmp_path / "model.onnx", tmp_path / "rows.npy"],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
    assert len(seen.pop().split()) == 6


# the search


def outlier_model(outlier: float) -> bytes:
    """Two independent paths added up; the activations of one have a channel far beyond the others."""
    rng = np.random.default_rng(1)
    width = 32
    scale = np.ones(width, np.float32)
    scale[0] = outlier
    weights = {
        "scale": scale,
        "a": rng.normal(size=(width, 2)) * (1 / scale)[:, None],
        "b": rng.normal(size=(width, 2)),
        "c": rng.normal(size=(width, 2)),
    }
    nodes = [
        helper.make_node("Mul", ["input", "scale"], ["wide"], name="stretch"),
        helper.make_node("MatMul", ["wide", "a"], ["from_wide"], name="harmful"),
        helper.make_node("MatMul", ["input", "b"], ["from_b"], name="harmless_b"),
        helper.make_node("MatMul", ["input", "c"], ["from_c"], name="harmless_c"),
        helper.make_node("Sum", ["from_wide", "from_b", "from_c"], ["scores"], name="sum"),
        helper.make_node("Softmax", ["scores"], ["probabilities"], name="softmax"),
    ]
    value = helper.make_tensor_value_info
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    model = model_of(
        nodes,
        [value("input", TensorProto.FLOAT, ["N", width])],
        [value("probabilities", TensorProto.FLOAT, ["N", 2])],
        constants,
    )
    return model.SerializeToString()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_search_leaves_just_the_harmful_node_in_fp32(store: Store, layout) -> None:
    rows = {"input": np.random.default_rng(0).normal(size=(512, 32)).astype(np.float32)}
    source = keep(store, outlier_model(5000.0))
    naive = quantize(store, source, "int8", layout, rows, search=Search(max_changed=1.0))
    searched = quantize(store, source, "int8", layout, rows, search=Search(max_changed=0.02))
    assert not isinstance(naive, NotQuantized)
    assert not isinstance(searched, NotQuantized)
    assert store.provenance(naive.digest)["excluded"] == []
    assert store.provenance(naive.digest)["changed_decisions"] > 0.05
    how = store.provenance(searched.digest)
    assert how["excluded"] == ["harmful"]
    assert how["changed_decisions"] <= 0.02


def test_without_outliers_nothing_is_excluded(store: Store) -> None:
    rows = {"input": np.random.default_rng(0).normal(size=(512, 32)).astype(np.float32)}
    made = quantize(store, keep(store, outlier_model(1.0)), "int8", "onnxruntime", rows, search=Search(0.02))
    assert not isinstance(made, NotQuantized)
    assert store.provenance(made.digest)["excluded"] == []


class Simulated:
    """Harm adds up over the nodes that are quantized; counts how often it is asked."""

    def __init__(self, harm: dict[str, float]) -> None:
        self.harm, self.trials = harm, 0

    def run(self, recipe: Recipe, excluded: tuple[str, ...]) -> QuantizedModel:
        self.trials += 1
        changed = sum(harm for node, harm in self.harm.items() if node not in excluded)
        return QuantizedModel(Path("none"), recipe, excluded, changed, changed / 2, changed)


RECIPE = Recipe("onnxruntime", "MinMax")


def search(harm: dict[str, float], limit: float) -> tuple[QuantizedModel, int]:
    simulated = Simulated(harm)
    start = simulated.run(RECIPE, ())
    units = Units(tuple((name,) for name in harm))
    return search_exclusions(simulated.run, start, units, limit), simulated.trials


def test_the_fewest_nodes_are_excluded_most_harmful_first() -> None:
    found, _ = search({"a": 0.001, "b": 0.05, "c": 0.002, "d": 0.03}, limit=0.01)
    assert set(found.excluded) == {"b", "d"}
    found, _ = search({"a": 0.001, "b": 0.05, "c": 0.002, "d": 0.03}, limit=0.035)
    assert found.excluded == ("b",)


def test_the_search_is_bounded() -> None:
    _, trials = search({str(index): 0.01 for index in range(24)}, limit=0.005)
    assert trials <= 1 + 24 + 5


def test_when_nothing_is_enough_the_least_harmful_model_goes_to_the_gate() -> None:
    found, _ = search({"a": 0.5, "b": 0.2, "c": 0.1}, limit=0.01)
    assert found.excluded == ("a", "b")
    assert found.changed == pytest.approx(0.1)


def test_products_without_weights_go_back_first_whatever_their_harm() -> None:
    """They make the file no smaller: of two ways to be harmless, the one that keeps the weights in 8 bits."""
    simulated = Simulated({"weights": 0.04, "more": 0.03, "attention": 0.01})
    units = Units((("weights",), ("more",), ("attention",)), weightless=(("attention",),))
    found = search_exclusions(simulated.run, simulated.run(RECIPE, ()), units, 0.07)
    assert found.excluded == ("attention",)


def found(changed: float, lost: float) -> QuantizedModel:
    return QuantizedModel(Path("none"), RECIPE, (), changed, lost, 0.0)


def test_a_decision_that_was_a_coins_toss_may_change_but_not_a_sure_one() -> None:
    assert found(changed=0.02, lost=0.01).keeps(0.02)
    assert not found(changed=0.02, lost=0.011).keeps(0.02)
    assert not found(changed=0.021, lost=0.0).keeps(0.02)


def test_what_is_lost_is_weighed_by_how_sure_the_original_was(store: Store) -> None:
    rows = {"input": np.random.default_rng(0).normal(size=(512, 32)).astype(np.float32)}
    source = keep(store, outlier_model(5000.0))
    made = quantize(store, source, "int8", "onnxruntime", rows, search=Search(max_changed=1.0))
    assert not isinstance(made, NotQuantized)
    before, after = (
        answer(open_session(path, config=session_config("int8")), rows)["probabilities"]
        for path in (source.path, made.path)
    )
    was, now, row = before.argmax(1), after.argmax(1), np.arange(512)
    how = store.provenance(made.digest)
    assert how["changed_decisions"] == pytest.approx(float(np.mean(was != now)), abs=0.005)
    assert how["lost_decisions"] == pytest.approx(
        float(np.mean(before[row, was] - before[row, now])), abs=0.005
    )
    assert 0 < how["lost_decisions"] < how["changed_decisions"]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_version_registered_quantized_is_served_as_it_is_or_not_at_all(
    store: Store, digits: Digits, precision: Precision
) -> None:
    by_hand = quantize(store, keep(store, digits.onnx), "int8", "onnxruntime", digits.calibration)
    assert not isinstance(by_hand, NotQuantized)
    again = quantize(
        store, keep(store, by_hand.path.read_bytes()), precision, "onnxruntime", digits.calibration
    )
    assert isinstance(again, NotQuantized)
    assert "registered quantized already: it has DequantizeLinear, QuantizeLinear" in again.reason


def test_many_nodes_are_searched_in_groups_of_one_kind() -> None:
    weights = [numpy_helper.from_array(np.zeros((4, 4), np.float32), f"w{index}") for index in range(30)]
    nodes = [
        helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"x{index + 1}"], name=f"m{index}")
        for index in range(30)
    ]
    nodes.append(helper.make_node("MatMul", ["x30", "x30"], ["y"], name="attention"))
    value = helper.make_tensor_value_info
    inputs = [value("x0", TensorProto.FLOAT, [4, 4])]
    model = model_of(nodes, inputs, [value("y", TensorProto.FLOAT, [4, 4])], weights)
    units = Units.of(model, ("MatMul",), max_units=24)
    assert [len(unit) for unit in units.members] == [30, 1]
    assert units.weightless == (("attention",),)
    assert len(Units.of(model, ("MatMul",), max_units=31).members) == 31


# what people's graphs have


def scores_of(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Array],
    *,
    opset: int = 18,
    ir: int = 9,
    fed: Sequence[str] = (),
) -> bytes:
    """A model from `x` [N, 8] to `scores` [N, 2]; `fed` weights are inputs too, as IR 3 wanted."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes),
        "g",
        [value("x", TensorProto.FLOAT, ["N", 8]), *(value(n, TensorProto.FLOAT, [8, 2]) for n in fed)],
        [value("scores", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir).SerializeToString()


node = helper.make_node
WEIGHTS = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
AXIS = np.array([1], np.int64)
A_SCALAR = [
    node("Shape", ["x"], ["shape"]),
    node("Gather", ["shape", "zero"], ["rows"]),
    node("Cast", ["rows"], ["float rows"], to=TensorProto.FLOAT),
    node("Div", ["float rows", "float rows"], ["one"]),
    node("Mul", ["x", "one"], ["same"]),
    node("MatMul", ["same", "w"], ["scores"]),
]
STACKED = [
    node("Unsqueeze", ["x", "axis"], ["wide"]),
    node("MatMul", ["wide", "stacked"], ["product"]),
    node("Squeeze", ["product", "axis"], ["scores"]),
]
PLAIN = [node("MatMul", ["x", "w"], ["scores"])]


@pytest.mark.parametrize(
    ("precision", "content"),
    [
        ("fp16", scores_of(A_SCALAR, {"w": WEIGHTS, "zero": np.array(0)})),
        ("int8", scores_of(STACKED, {"stacked": WEIGHTS[None], "axis": AXIS})),
        ("int8", scores_of(PLAIN, {"w": WEIGHTS}, opset=9, ir=4)),
        ("int8", scores_of(PLAIN, {"w": WEIGHTS}, opset=12, ir=7)),
        ("int8", scores_of(PLAIN, {"w": WEIGHTS}, opset=9, ir=3, fed=["w"])),
    ],
    ids=["a scalar computed at run time", "batched weights", "opset 9", "opset 12", "weights as inputs"],
)
def test_what_real_graphs_have_is_converted_and_decides_as_before(
    store: Store, precision: Precision, content: bytes
) -> None:
    rows = {"x": np.random.default_rng(1).normal(size=(400, 8)).astype(np.float32)}
    made = quantize(store, keep(store, content), precision, "onnxruntime", rows)
    assert not isinstance(made, NotQuantized)
    kinds = {tensor.data_type for tensor in onnx.load(made.path).graph.initializer}
    assert kinds & {TensorProto.FLOAT16, TensorProto.INT8}, "it is in that precision"
    assert np.mean(decisions(content, rows) == decisions(made.path.read_bytes(), rows)) > 0.97


def test_an_imputer_before_a_scaler_is_converted_to_fp16(store: Store) -> None:
    """onnx infers no type behind ai.onnx.ml's Imputer, and the converter cast nothing there."""
    from skl2onnx import to_onnx
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    pipeline = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(x, x[:, 0] > 0)
    content = to_onnx(pipeline, x[:1], options={"zipmap": False}).SerializeToString()
    made = quantize(store, keep(store, content), "fp16", "onnxruntime", {"X": x})
    assert not isinstance(made, NotQuantized)
    before, after = (answer(open_session(one), {"X": x}) for one in (content, made.path))
    assert np.mean(before["label"] == after["label"]) > 0.99


def test_a_class_that_only_the_quantized_model_decides_for_counts_as_lost() -> None:
    trial = object.__new__(Trial)
    trial._probabilities = np.array([[0.9, 0.1], [0.4, 0.6]])
    trial._decisions = np.array([0, 1])
    assert trial._lost(np.array([5, 1])) == 0.5
    assert trial._lost(np.array([-1, 0])) == pytest.approx(0.6)


def test_a_regression_is_quantized_by_how_far_its_values_move_not_by_a_threshold(store: Store) -> None:
    """Values far above any threshold never change a decision, so that anything passed the search."""
    random = np.random.default_rng(0)
    outlying = WEIGHTS[:, :1] * np.array([[1e-3], *[[1.0]] * 6, [50.0]], np.float32)
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "far"], ["scores"])]
    content = scores_of(nodes, {"w": np.hstack([outlying] * 2), "far": np.float32(1e6)})
    rows = {"x": random.normal(size=(400, 8)).astype(np.float32)}
    rows["x"][:, 7] = 0
    rows["x"][0, 7] = 4000
    search = Search(max_changed=0.05, by_values=True)
    made = quantize(store, keep(store, content), "int8", "onnxruntime", rows, search=search)
    assert not isinstance(made, NotQuantized)
    assert store.provenance(made.digest)["changed_decisions"] > 0
    by_decision = quantize(store, keep(store, content), "int8", "tensorrt", rows)
    assert not isinstance(by_decision, NotQuantized)
    assert store.provenance(by_decision.digest)["changed_decisions"] == 0


def test_an_operator_only_in_a_branch_keeps_its_domain(store: Store) -> None:
    value = helper.make_tensor_value_info
    gelu = node("Gelu", ["x"], ["a"], domain="com.microsoft")
    branches = {
        "then_branch": helper.make_graph([gelu], "t", [], [value("a", TensorProto.FLOAT, None)]),
        "else_branch": helper.make_graph(
            [node("Identity", ["x"], ["b"])], "e", [], [value("b", TensorProto.FLOAT, None)]
        ),
    }
    nodes = [
        node("ReduceMax", ["x"], ["top"], keepdims=0),
        node("Greater", ["top", "limit"], ["is big"]),
        node("If", ["is big"], ["chosen"], **branches),
        node("MatMul", ["chosen", "w"], ["scores"]),
    ]
    content = scores_of(nodes, {"w": WEIGHTS, "limit": np.float32(1e9)})
    rows = {"x": np.ones((40, 8), np.float32)}
    assert not isinstance(quantize(store, keep(store, content), "fp32", "onnxruntime", rows), NotQuantized)


# what cannot be


def test_a_model_without_heavy_operators_is_not_quantized(store: Store) -> None:
    source = keep(store, elementwise("Sigmoid").SerializeToString())
    made = quantize(store, source, "int8", "onnxruntime", {"x": np.zeros((40, 2), np.float32)})
    assert isinstance(made, NotQuantized)
    assert "none of Conv, ConvTranspose, Gemm, MatMul is in the model outside branches" in made.reason


def test_an_unknown_precision_or_layout_lists_what_exists(store: Store, credit: Credit) -> None:
    source = keep(store, credit.onnx)
    with pytest.raises(UnknownPrecision, match=r"'int4'.*\n  remedy: use one of: fp32, fp16, int8"):
        quantize(store, source, "int4", "onnxruntime", credit.calibration)  # type: ignore[arg-type]
    with pytest.raises(UnknownPrecision, match="use one of: onnxruntime, tensorrt"):
        quantize(store, source, "int8", "openvino", credit.calibration)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08\x07\x12"])
def test_garbage_is_refused_in_words(store: Store, content: bytes) -> None:
    with pytest.raises(NotOnnx):
        quantize(store, keep(store, content), "int8", "onnxruntime", {"x": np.zeros((4, 2), np.float32)})


def test_a_truncated_model_is_refused_in_words(store: Store, credit: Credit) -> None:
    with pytest.raises(NotOnnx, match="ONNX"):
        quantize(store, keep(store, credit.onnx[:5000]), "fp16", "onnxruntime", credit.calibration)


def test_calibration_without_rows_is_refused(store: Store, credit: Credit) -> None:
    rows = {"input": credit.calibration["input"][:0]}
    with pytest.raises(Permanent, match="there are no rows"):
        quantize(store, keep(store, credit.onnx), "int8", "onnxruntime", rows)


# rows and machines


@pytest.mark.parametrize(
    ("there", "limit", "taken"), [(1000, 512, 512), (334, 512, 320), (20, 512, 20), (1, 5, 1)]
)
def test_calibration_rows_are_spread_over_the_file_in_whole_batches(
    there: int, limit: int, taken: int
) -> None:
    rows = spread({"x": np.arange(there)}, limit)["x"]
    assert len(rows) == taken
    assert (rows[0], rows[-1]) == (0, there - 1)
    assert len(set(rows.tolist())) == taken


def test_int8_asks_for_exact_products_only_where_the_cpu_saturates() -> None:
    assert session_config("int8", exact_int8=False) == {"session.x64quantprecision": "1"}
    assert session_config("int8", exact_int8=True) == {}
    assert session_config("fp32", exact_int8=False) == {}


@pytest.mark.parametrize(
    ("flags", "exact"),
    [("fpu avx2 avx512f", False), ("fpu avx512_vnni", True), ("fpu avx_vnni", True), ("fpu amx_int8", True)],
)
def test_vnni_is_read_from_the_cpu_flags(tmp_path: Path, flags: str, exact: bool) -> None:
    cpuinfo = tmp_path / f"cpuinfo-{exact}-{flags}"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert has_exact_int8(cpuinfo) is exact


def test_arm_always_sums_exactly(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nFeatures : fp asimd\n")
    assert has_exact_int8(cpuinfo) is True
