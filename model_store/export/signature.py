"""MLflow signatures beside ONNX inputs: whether they agree, and which columns feed which input."""

from __future__ import annotations

from collections.abc import Sequence

from model_store.export.base import Columns, NotExportable
from model_store.export.mlmodel import Field, LoggedModel, Signature
from model_store.release_spec import Data
from model_store.types import Datatype, TensorSpec

DEFAULT_INPUT = "input"
# Clients send float32 and quantizers start from it. Agreement with the original shows whether that is enough.
_NUMBERS_AS: Datatype = "FP32"


def match(
    signature: Signature, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Columns | None:
    """Check an ONNX model against its signature; columns by input where the signature names columns.

    Raises `Permanent` for wrong names, types and shapes.
    """
    if all(field.shape is None for field in signature.inputs):
        return _match_columns(signature.inputs, inputs)
    _match_tensors(signature.inputs, inputs, "input")
    _match_tensors([field for field in signature.outputs if field.name and field.shape], outputs, "output")
    return None


def plan(logged: LoggedModel, data: Data) -> tuple[tuple[TensorSpec, ...], Columns | None]:
    """The inputs an ONNX model made from `logged` will have. Raises `Permanent` without a usable signature.

    Tensors keep their names and shapes. Columns of numbers become one input `input`; if there is text among
    them, each column becomes an input [-1, 1] of its own. All numbers become FP32.
    """
    if logged.signature is None:
        raise NotExportable(
            "the model has no signature, so nobody knows what it takes",
            remedy="log it with signature=mlflow.models.infer_signature(inputs, outputs)",
        )
    fields = logged.signature.inputs
    if any(field.shape is not None for field in fields):
        return tuple(_tensor(field) for field in fields), None
    by_name = {field.name: _datatype(field) for field in fields}
    columns = data.inputs or _group(by_name)
    return tuple(_stacked(name, names, by_name) for name, names in columns.items()), columns


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


def _datatype(field: Field) -> Datatype:
    if field.datatype is None:
        raise NotExportable(
            f"signature input `{field.name}` is {field.written}, which no ONNX tensor holds",
            remedy="turn it into numbers or text before the model",
        )
    return "BYTES" if field.datatype == "BYTES" else _NUMBERS_AS


def _group(by_name: dict[str, Datatype]) -> Columns:
    if "BYTES" in by_name.values():
        return {name: (name,) for name in by_name}
    return {DEFAULT_INPUT: tuple(by_name)}


def _stacked(tensor: str, columns: tuple[str, ...] | str, by_name: dict[str, Datatype]) -> TensorSpec:
    names = (columns,) if isinstance(columns, str) else columns
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
