"""The flavours `xgboost`, `lightgbm`, `catboost`: loaded, asked and converted in the model's environment.

Their libraries are the model's and not ours: uv installs them, with the converter, from its requirements.
CatBoost has an exporter of its own; onnxmltools converts the other two.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import helper

from model_store.dataset import Dataset, read_dataset
from model_store.export.agreement import Disagrees, agree
from model_store.export.allowed import refuse_unless_allowed
from model_store.export.base import NotExportable, Original
from model_store.export.in_child import AS_IT_IS, refuse_failed_step, run_converter, said, write_rows
from model_store.export.invocations import NOT_SERVED, answered_values
from model_store.export.mlmodel import LoggedModel
from model_store.export.onnx_file import parse, read_onnx
from model_store.export.outputs import without_outputs
from model_store.export.pairing import Paired, pair
from model_store.export.requirements import own_interpreter
from model_store.export.says import Says
from model_store.export.signature import Plan, plan
from model_store.foreign_code import Limits
from model_store.inference import answer, open_session
from model_store.release_spec import ReleaseSpec
from model_store.types import Toolchain

CHILD = Path(__file__).with_name("boosters_child.py")
# Their libraries map more than scikit-learn's.
LIMITS = Limits(seconds=300, memory_mb=16_384)

Flavor = Literal["xgboost", "lightgbm", "catboost"]

# What our own onnx reads; the model's requirements decide the rest.
_CONVERTER = (f"onnx<={onnx.__version__}",)
_CONVERTERS: dict[Flavor, tuple[str, ...]] = {
    "xgboost": ("onnxmltools", *_CONVERTER),
    "lightgbm": ("onnxmltools", *_CONVERTER),
    "catboost": (),
}
_MADE_BY: dict[Flavor, str] = {
    "xgboost": "onnxmltools",
    "lightgbm": "onnxmltools",
    "catboost": "CatBoost",
}


def convert_with(
    flavor: Flavor, logged: LoggedModel, spec: ReleaseSpec, evaluation: Path, work: Path
) -> Original:
    """See `model_store.export.sklearn.convert`."""
    logged.flavor(flavor)
    refuse_unless_allowed(spec, flavor, f"is of flavor {flavor}: converting it installs and runs")
    planned = plan(logged, spec.data)
    _refuse_texts(planned)
    typed = read_dataset(evaluation, spec.data, planned.typed, columns=planned.typed_columns, labelled=False)
    rows = read_dataset(evaluation, spec.data, planned.attempts[0].inputs, columns=planned.columns)
    _write_request(work, flavor, logged, planned, typed)
    own = own_interpreter(logged, _CONVERTERS[flavor], work)
    told = run_converter(CHILD, work, LIMITS, readable=(logged.folder,), python=own)
    refuse_failed_step(told, _MADE_BY[flavor])
    return _result(flavor, work, told, spec, rows)


Convert = Callable[[LoggedModel, ReleaseSpec, Path, Path], Original]

CONVERTERS: dict[str, Convert] = {flavor: partial(convert_with, flavor) for flavor in _CONVERTERS}


def _refuse_texts(planned: Plan) -> None:
    texts = [spec.name for spec in planned.typed if spec.datatype == "BYTES"]
    if texts or len(planned.attempts[0].inputs) > 1:
        raise NotExportable(
            f"the booster takes {', '.join(texts) or 'several inputs'}, and converters one array of numbers",
            remedy=f"encode text as numbers before the model, or {AS_IT_IS}",
        )


def _write_request(work: Path, flavor: Flavor, logged: LoggedModel, planned: Plan, typed: Dataset) -> None:
    write_rows(work, typed)
    (spec,) = planned.attempts[0].inputs
    width = spec.shape[1] if spec.shape[1] > 0 else next(iter(typed.inputs.values())).shape[1]
    request = {
        "flavor": flavor,
        "model": str(logged.folder.resolve()),
        "rows": list(typed.inputs),
        "is_table": planned.is_table,
        "input": spec.name,
        "width": width,
    }
    (work / "request.json").write_text(json.dumps(request))


def _result(flavor: Flavor, work: Path, told: dict[str, Any], spec: ReleaseSpec, rows: Dataset) -> Original:
    path = work / "model.onnx"
    model = _mended(
        parse(read_onnx(path, max_size_mb=spec.source.max_size_mb), path), next(iter(rows.inputs))
    )
    by_method = said(work)
    if told["kind"] == "scores":
        # A bare booster says how probable classes are; which it would decide for, the converter made up.
        model = without_outputs(model, [model.graph.output[0].name])
        by_method = {"predict": by_method["predict_proba"]}
    content = model.SerializeToString(deterministic=True)
    answers = answer(open_session(content), rows.inputs, batch_size=spec.serving.max_batch_size)
    tolerance = spec.gates.export_tolerance
    paired = pair(answers, by_method, tolerance=tolerance)
    probable = frozenset(answers) if told["kind"] == "scores" else paired.probabilities
    try:
        agreement = agree(paired.answers, answers, tolerance=tolerance, probabilities=probable)
    except Disagrees as error:
        raise Disagrees(error.problem, remedy=f"{error.remedy}; {AS_IT_IS}") from error
    served = without_outputs(model, paired.uncompared)
    return Original(
        served.SerializeToString(deterministic=True),
        rows,
        paired.answers,
        Toolchain(_MADE_BY[flavor].lower(), told["versions"]),
        agreement,
        _says(told, list(paired.answers), probable),
        tuple(
            f"output `{name}` is not served: nothing of the original agrees with it"
            for name in paired.uncompared
        ),
        _answer(told, paired),
    )


def _answer(told: dict[str, Any], paired: Paired) -> dict[str, Any]:
    """What MLflow's own wrapper answers: of two classes, a bare booster says how probable the second is."""
    output = next((name for name, method in paired.methods.items() if method == "predict"), None)
    if output is None:
        return NOT_SERVED
    kind, shape = told["form"]
    is_second = told["kind"] == "scores" and not shape
    return answered_values(output, kind, shape, column=1 if is_second else None)


def _says(told: dict[str, Any], outputs: list[str], probable: frozenset[str]) -> Says:
    is_classifier = told["kind"] in ("classifier", "scores")
    roles: dict[str, Any] = {
        name: "scores" if name in probable else ("label" if is_classifier else "value") for name in outputs
    }
    return {
        "kind": "classifier" if is_classifier else told["kind"],
        "classes": told["classes"],
        "outputs": roles if told["kind"] else {},
        "probabilities": dict.fromkeys(probable, True),
        "multilabel": False,
    }


def _mended(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Tensors where converters write maps, the input's own name, and rows as a free first dimension."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    maps = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "ZipMap"}
    kept = [node for node in graph.node if node.op_type != "ZipMap"]
    called = {graph.input[0].name: name, **{tensor: output for output, tensor in maps.items()}}
    for node in kept:
        for names in (node.input, node.output):
            names[:] = [called.get(each, each) for each in names]
    del graph.node[:]
    graph.node.extend(kept)
    graph.input[0].name = name
    for value in graph.output:
        if value.name in maps:
            new = helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, ["N", None])
            value.CopyFrom(new)
        elif value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].Clear()
    return changed
