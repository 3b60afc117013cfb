"""MLflow signatures beside ONNX inputs: whether they agree, and which columns feed which input."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from model_store.export.base import Columns, NotExportable
from model_store.export.mlmodel import DATATYPES, Field, LoggedModel, LoggedSignature
from model_store.release_spec import Data
from model_store.tables import read_table
from model_store.types import Datatype, TensorSpec

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_INPUT = "input"
# What float32 may not hold.
_WIDE: frozenset[Datatype] = frozenset(("FP64", "INT64", "UINT64", "INT32", "UINT32"))
_WHOLE: frozenset[Datatype] = frozenset(
    ("INT64", "UINT64", "INT32", "UINT32", "INT16", "UINT16", "INT8", "UINT8")
)


@dataclass(frozen=True, slots=True)
class InputsToTry:
    """Inputs that an ONNX model may have. `narrowed`: where it rounds them to float32 itself, as trees of
    scikit-learn do, so that clients and data files need not; before the last step of a pipeline, whose first
    steps compute with float64.
    """

    inputs: tuple[TensorSpec, ...]
    narrowed: Literal["", "at once", "before the last step"] = ""

    def __str__(self) -> str:
        where = f" {self.narrowed}" if self.narrowed == "before the last step" else ""
        types = ", ".join(sorted({spec.datatype for spec in self.inputs}))
        return f"{types} inputs{', rounded to FP32' if self.narrowed else ''}{where}"


@dataclass(frozen=True, slots=True)
class Plan:
    """`typed`: what the original is given, in the signature's own types: `is_table` says that these are the
    columns of a table. `attempts`: what an ONNX model may take, the most welcome first. `columns` and
    `typed_columns`: which data columns fill them, None where the data file decides.
    """

    typed: tuple[TensorSpec, ...]
    typed_columns: Columns | None
    is_table: bool
    attempts: tuple[InputsToTry, ...]
    columns: Columns | None


def with_signature(logged: LoggedModel, data: Data, evaluation: Path) -> LoggedModel:
    """The same model, whose signature is what the evaluation rows say where its author logged none.

    Autologging and most examples log none, and MLflow serves such models; every row that is judged shows what
    the model takes. Its columns are those that nothing else of the spec speaks of, in the file's order and
    types. Raises `Permanent` where the file cannot be read.
    """
    if logged.signature is not None:
        return logged
    table, _ = read_table(evaluation)
    fed = [name for names in (data.inputs or {}).values() for name in _listed(names)]
    names = fed or [name for name in table.column_names if name not in data.spoken_for]
    known = [name for name in names if name in table.column_names]
    fields = tuple(_of_column(name, table.schema.field(name).type) for name in known)
    return replace(logged, signature=LoggedSignature(fields, (), is_of_rows=True)) if fields else logged


def told_of_signature(logged: LoggedModel) -> tuple[str, ...]:
    """The note of a release whose model was logged without a signature; nothing otherwise."""
    if logged.signature is None or not logged.signature.is_of_rows:
        return ()
    columns = ", ".join(field.name for field in logged.signature.inputs)
    return (
        f"it was logged without a signature: by the evaluation rows it takes {columns}, in this order"
        " (signature=mlflow.models.infer_signature(inputs, outputs) says it for certain)",
    )


def match(
    signature: LoggedSignature,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    left_out: Collection[str] = (),
) -> Columns | None:
    """Check an ONNX model against its signature; columns by input where the signature names columns.
    `left_out`: outputs that it has, and that are not served.

    Raises `Permanent` for wrong names, types and shapes.
    """
    if all(field.shape is None for field in signature.inputs):
        return _match_columns(signature.inputs, inputs)
    _match_tensors(signature.inputs, inputs, "input")
    promised = [field for field in signature.outputs if field.name and field.shape]
    _match_tensors([field for field in promised if field.name not in left_out], outputs, "output")
    return None


def plan(logged: LoggedModel, data: Data) -> Plan:
    """What the original takes, and what an ONNX model made from it will. Raises `Permanent` without a usable
    signature.

    Tensors keep their names and shapes. Columns of numbers become one input `input`; if there is text among
    them, each column becomes an input [-1, 1] of its own. Numbers become FP32, because clients send float32
    and quantizers start from it; agreement with the original shows whether that suffices. Where it does not,
    FP64 is tried, and INT64 for whole numbers.
    """
    if logged.signature is None:
        raise NotExportable(
            "the model has no signature, so nobody knows what it takes",
            remedy="log it with signature=mlflow.models.infer_signature(inputs, outputs)",
        )
    fields = logged.signature.inputs
    if any(field.shape is not None for field in fields):
        typed = tuple(_tensor(field) for field in fields)
        inputs = [
            tuple(TensorSpec(spec.name, types[spec.datatype], spec.shape) for spec in typed)
            for types in _types(typed)
        ]
        return Plan(typed, None, False, _attempts(inputs), None)
    return _plan_table(fields, data)


def _plan_table(fields: Sequence[Field], data: Data) -> Plan:
    by_name = {field.name: _typed(field, data) for field in fields}
    _refuse_label(by_name, data)
    typed = tuple(TensorSpec(name, datatype, (-1,)) for name, datatype in by_name.items())
    columns = data.inputs or _group(by_name)
    inputs = []
    for types in _types(typed):
        wanted = {name: types[datatype] for name, datatype in by_name.items()}
        inputs.append(tuple(_stacked(name, names, wanted) for name, names in columns.items()))
    return Plan(typed, {name: name for name in by_name}, True, _attempts(inputs), columns)


def _attempts(inputs: Sequence[tuple[TensorSpec, ...]]) -> tuple[InputsToTry, ...]:
    """FP32, FP64, INT64 where that may help, and FP64 that is rounded inside."""
    if len(inputs) == 1:
        return (InputsToTry(inputs[0]),)
    wide = (InputsToTry(inputs[1], "before the last step"), InputsToTry(inputs[1], "at once"))
    return (*map(InputsToTry, inputs), *wide)


def _types(typed: Sequence[TensorSpec]) -> Iterator[Mapping[Datatype, Datatype]]:
    """For each attempt, what becomes of the signature's datatypes."""
    found: set[Datatype] = {spec.datatype for spec in typed}
    kept: dict[Datatype, Datatype] = {"BYTES": "BYTES"}
    yield {datatype: kept.get(datatype, "FP32") for datatype in found}
    if found & _WIDE:
        yield {datatype: kept.get(datatype, "FP64") for datatype in found}
    if found & _WIDE & _WHOLE and found <= _WHOLE | set(kept):
        yield {datatype: kept.get(datatype, "INT64") for datatype in found}


def _refuse_label(by_name: Mapping[str, Datatype], data: Data) -> None:
    labels = [data.label] if isinstance(data.label, str) else list(data.label)
    if leaked := [name for name in labels if name in by_name]:
        raise NotExportable(
            f"the model takes the column `{leaked[0]}`, which is the spec's label: it is told the answer",
            remedy="train it without that column, or correct data.label",
        )


def _match_columns(fields: Sequence[Field], inputs: Sequence[TensorSpec]) -> Columns:
    names = tuple(field.name for field in fields)
    if len(inputs) == 1:
        width = inputs[0].shape[1] if len(inputs[0].shape) == 2 else -1
        if width not in (-1, len(names)):
            raise _mismatch(f"{len(names)} columns", f"{inputs[0]}")
        return {inputs[0].name: names}
    if set(names) != {spec.name for spec in inputs}:
        raise _mismatch(", ".join(names), ", ".join(spec.name for spec in inputs))
    return {name: name for name in names}


def _match_tensors(fields: Sequence[Field], specs: Sequence[TensorSpec], role: str) -> None:
    by_name = {spec.name: spec for spec in specs}
    if role == "input" and len(fields) != len(specs):
        raise _mismatch(f"{len(fields)} inputs", f"{len(specs)} ({', '.join(by_name)})")
    for field in fields:
        spec = specs[0] if len(specs) == 1 and not field.name else by_name.get(field.name)
        if spec is None:
            raise _mismatch(f"{role} `{field.name}`", f"{role}s {', '.join(by_name)}")
        if not (_same_type(field, spec) and _same_shape(field.shape or (), spec.shape)):
            raise _mismatch(f"{role} {field.name} {field.written}{list(field.shape or ())}", f"{spec}")


def _same_type(field: Field, spec: TensorSpec) -> bool:
    # MLflow itself narrows float64 to float32 for ONNX models (mlflow.onnx._OnnxModelWrapper).
    return field.datatype == spec.datatype or (field.datatype, spec.datatype) == ("FP64", "FP32")


def _same_shape(said: tuple[int, ...], has: tuple[int, ...]) -> bool:
    return len(said) == len(has) and all(-1 in (a, b) or a == b for a, b in zip(said, has, strict=True))


def _mismatch(said: str, has: str) -> NotExportable:
    return NotExportable(
        f"the MLflow signature says {said}, the ONNX model has {has}",
        remedy="log the model with the signature of this very model: infer_signature(inputs, outputs)",
    )


def _tensor(field: Field) -> TensorSpec:
    if field.shape is None or len(field.shape) < 2:
        raise NotExportable(
            f"signature input `{field.name}` {field.written} is not a batch of rows",
            remedy="infer the signature from a two-dimensional array: rows x features",
        )
    return TensorSpec(field.name or DEFAULT_INPUT, _datatype(field), (-1, *field.shape[1:]))


def _typed(field: Field, data: Data) -> Datatype:
    """As the signature says; a column of whole numbers that may have gaps is one of floats, as in pandas."""
    datatype = _datatype(field)
    has_gaps = field.name in data.columns and data.columns[field.name].nullable
    return "FP64" if has_gaps and datatype in _WHOLE else datatype


def _datatype(field: Field) -> Datatype:
    if field.datatype is None:
        raise NotExportable(
            f"signature input `{field.name}` is {field.written}, which no ONNX tensor holds",
            remedy="turn it into numbers or text before the model; source.flavor: pyfunc takes it as it is",
        )
    return field.datatype


def _group(by_name: Mapping[str, Datatype]) -> Columns:
    if "BYTES" in by_name.values():
        return {name: (name,) for name in by_name}
    return {DEFAULT_INPUT: tuple(by_name)}


def _stacked(tensor: str, columns: tuple[str, ...] | str, by_name: Mapping[str, Datatype]) -> TensorSpec:
    names = _listed(columns)
    if unknown := [name for name in names if name not in by_name]:
        raise NotExportable(
            f"data.inputs.{tensor} names {', '.join(unknown)}, which the model's signature lacks",
            remedy=f"the signature has: {', '.join(by_name)}",
        )
    kinds = {by_name[name] for name in names}
    if len(kinds) > 1:
        raise NotExportable(
            f"data.inputs.{tensor} mixes text and numbers", remedy="give text columns inputs of their own"
        )
    return TensorSpec(tensor, kinds.pop(), (-1, len(names)))


def _listed(names: tuple[str, ...] | str) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _of_column(name: str, kind: pa.DataType) -> Field:
    """A column of a table in MLflow's words (`mlflow.types.DataType`)."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        items = _mlflow_type(kind.value_type)
        return Field(name, None, None, f"a list of {items}", items)
    written = _mlflow_type(kind)
    return Field(name, DATATYPES.get(written), None, written)


def _mlflow_type(kind: pa.DataType) -> str:
    from pyarrow import types

    if types.is_date(kind) or types.is_timestamp(kind):
        return "datetime"
    if types.is_integer(kind):
        return "integer" if kind.bit_width < 32 or str(kind) == "int32" else "long"
    if types.is_floating(kind):
        return "double" if kind.bit_width == 64 else "float"
    if types.is_boolean(kind):
        return "boolean"
    return "string" if types.is_string(kind) or types.is_large_string(kind) else str(kind)
