"""The flavour `pytorch`: loaded, asked and exported in the model's environment, by torch's own exporters.

torch is the model's and not ours: uv installs what its requirements name, with onnx and onnxscript. An eager
module goes through torch.export, a scripted one through TorchScript's exporter, and a program that was logged
as `pt2` is exported as it is. https://docs.pytorch.org/docs/stable/onnx_export.html
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx

from model_store.dataset import Dataset, read_dataset
from model_store.export.agreement import Disagrees, agree
from model_store.export.allowed import refuse_unless_allowed
from model_store.export.base import NotExportable, Original
from model_store.export.in_child import AS_IT_IS, refuse_failed_step, run_converter, said, write_rows
from model_store.export.invocations import answered_numbered, answered_values
from model_store.export.mlmodel import LoggedModel
from model_store.export.onnx_file import parse, read_onnx
from model_store.export.outputs import constant_outputs, without_outputs
from model_store.export.requirements import own_interpreter
from model_store.export.says import said_by_graph
from model_store.export.signature import Plan, plan
from model_store.foreign_code import Limits
from model_store.inference import answer, open_session
from model_store.release_spec import ReleaseSpec
from model_store.types import TensorSpec, Toolchain

CHILD = Path(__file__).with_name("pytorch_child.py")
# torch's libraries alone map some 10 GB, and a cold disk needs a minute for them.
LIMITS = Limits(seconds=900, memory_mb=32_768, disk_mb=8192)
_EXPORTER = (f"onnx<={onnx.__version__}", "onnxscript")
_OPEN_BATCH = "log it with an input_example of several rows and a signature whose first dimension is -1"


def convert(logged: LoggedModel, spec: ReleaseSpec, evaluation: Path, work: Path) -> Original:
    """See `model_store.export.sklearn.convert`."""
    logged.flavor("pytorch")
    refuse_unless_allowed(spec, "pytorch", "is a torch model: loading it runs")
    planned = plan(logged, spec.data)
    inputs = _inputs(planned)
    rows = read_dataset(evaluation, spec.data, inputs, columns=planned.columns)
    typed = rows
    if planned.is_table:
        typed = read_dataset(
            evaluation, spec.data, planned.typed, columns=planned.typed_columns, labelled=False
        )
    _write_request(work, logged, spec, planned, inputs, typed)
    own = own_interpreter(logged, _EXPORTER, work)
    told = run_converter(CHILD, work, LIMITS, readable=(logged.folder,), python=own)
    refuse_failed_step(told, "torch", on_predict=_OPEN_BATCH)
    return _result(work, told, spec, rows, is_table=planned.is_table)


def _inputs(planned: Plan) -> tuple[TensorSpec, ...]:
    """In the signature's own types: torch computes with no other. A table is one matrix of float32, as
    MLflow's own wrapper makes of it.
    """
    if not planned.is_table:
        return planned.typed
    inputs = planned.attempts[0].inputs
    if len(inputs) > 1 or inputs[0].datatype != "FP32":
        raise NotExportable(
            "MLflow hands a torch model its columns as one array of numbers, and these are "
            + ", ".join(f"{spec.name} {spec.datatype}" for spec in planned.typed),
            remedy=f"encode text before the model, or log it with a signature of tensors; {AS_IT_IS}",
        )
    return inputs


def _write_request(
    work: Path,
    logged: LoggedModel,
    spec: ReleaseSpec,
    planned: Plan,
    inputs: tuple[TensorSpec, ...],
    typed: Dataset,
) -> None:
    write_rows(work, typed)
    outputs = logged.signature.outputs if logged.signature else ()
    request = {
        "model": str(logged.folder.resolve()),
        "columns": len(typed.inputs),
        "is_table": planned.is_table,
        "inputs": [one.name for one in inputs],
        "free": [[dim for dim, size in enumerate(one.shape) if size == -1] for one in inputs],
        "outputs": [field.name for field in outputs if field.name],
        "threads": spec.serving.threads,
    }
    (work / "request.json").write_text(json.dumps(request))


def _result(
    work: Path, told: dict[str, Any], spec: ReleaseSpec, rows: Dataset, *, is_table: bool
) -> Original:
    path = work / "model.onnx"
    model = _plain(parse(read_onnx(path, max_size_mb=spec.source.max_size_mb), path))
    if len(model.graph.output) != len(told["outputs"]):
        raise NotExportable(
            f"the model answers {len(told['outputs'])} tensors and its export {len(model.graph.output)}",
            remedy=AS_IT_IS,
        )
    if constant := constant_outputs(model):
        model = without_outputs(model, constant)
    content = model.SerializeToString(deterministic=True)
    original = {name: array for name, array in said(work).items() if name not in constant}
    answers = answer(open_session(content), rows.inputs, batch_size=spec.serving.max_batch_size)
    says = said_by_graph(model)
    probable = frozenset(name for name, are in says["probabilities"].items() if are)
    try:
        agreement = agree(original, answers, tolerance=spec.gates.export_tolerance, probabilities=probable)
    except Disagrees as error:
        raise Disagrees(error.problem, remedy=f"{error.remedy}; {AS_IT_IS}") from error
    notes = [f"output `{name}` is not served: it is the same for every input" for name in constant]
    return Original(
        content,
        rows,
        original,
        Toolchain("torch", told["versions"]),
        agreement,
        says,
        (f"exported by {told['by']}", *notes),
        _answer(told, list(original), is_table=is_table),
    )


def _answer(told: dict[str, Any], served: list[str], *, is_table: bool) -> dict[str, Any] | None:
    """As MLflow's wrapper answers one tensor. It refuses models with several: those are answered by name."""
    if len(served) != 1:
        return None
    if is_table:
        return answered_numbered(served[0])
    return answered_values(served[0], *told["form"][served[0]])


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what torch notes of its own inner life, paths of the author's files among it: the same model
    gives the same bytes.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    plain.doc_string = ""
    del plain.metadata_props[:]
    _forget(plain.graph)
    for function in plain.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        _forget_nodes(function.node)
    return plain


def _forget(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    about: list[Any] = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for value in about:
        value.doc_string = ""
        del value.metadata_props[:]
    _forget_nodes(graph.node)


def _forget_nodes(nodes: Any) -> None:
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _forget(inner)
