"""One ONNX file that can be trusted to be one: parsed, checked, with every weight inside it.

External data is a path that the file's author chose. It is read only from regular files that lie in the
model's own folder (onnx/docs/ExternalData.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import external_data_helper

from model_store.explained import explain
from model_store.export.base import NotExportable
from model_store.types import Datatype, TensorSpec

# protobuf cannot hold more in one message.
PROTOBUF_LIMIT_BYTES = 2**31 - 1
MEGABYTE = 1_000_000

_DATATYPES: dict[int, Datatype] = {
    onnx.TensorProto.BOOL: "BOOL", onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.UINT16: "UINT16",
    onnx.TensorProto.UINT32: "UINT32", onnx.TensorProto.UINT64: "UINT64", onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT16: "INT16", onnx.TensorProto.INT32: "INT32", onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.FLOAT16: "FP16", onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.STRING: "BYTES",
}  # fmt: skip


def read_onnx(path: Path, *, max_size_mb: float) -> bytes:
    """The checked model as one message. A file with all its weights inside is returned byte for byte.

    Raises `Permanent` for what is too large, truncated, not ONNX, or has external data anywhere but in files
    of its own folder.
    """
    refuse_size(path, path.stat().st_size, max_size_mb)
    content = path.read_bytes()
    model = parse(content, path)
    external = [tensor for tensor in _tensors(model) if external_data_helper.uses_external_data(tensor)]
    if external:
        # Per tensor, not per file: a thousand tensors may name the same gigabyte.
        total = len(content) + sum(_external_bytes(tensor, path.parent) for tensor in external)
        refuse_size(path, total, max_size_mb)
        _refuse_beyond_protobuf(path, total)
        content = _inlined(model, external, path)
    _check(model, path)
    return content


def refuse_size(path: Path, size_bytes: int, max_size_mb: float) -> None:
    """Raises `Permanent` above the limit (1 MB is a million bytes)."""
    if size_bytes > max_size_mb * MEGABYTE:
        raise NotExportable(
            f"{path.name} is {size_bytes / MEGABYTE:.1f} MB, the limit is {max_size_mb:g} MB",
            remedy="make the model smaller, or raise source.max_size_mb in the spec",
        )


def _refuse_beyond_protobuf(path: Path, size_bytes: int) -> None:
    """A bundle has one file, and one protobuf message holds no more. No setting changes that."""
    if size_bytes > PROTOBUF_LIMIT_BYTES:
        most = f"{PROTOBUF_LIMIT_BYTES / MEGABYTE:,.0f} MB (2 GB, by protobuf)"
        raise NotExportable(
            f"{path.name} with its external data is {size_bytes / MEGABYTE:,.0f} MB; as one file, as"
            f" pods serve it, ONNX holds at most {most}",
            remedy="log it with its weights in half precision (float16), or make it smaller",
        )


def parse(content: bytes, path: Path) -> onnx.ModelProto:
    """The message, without external data. Raises `Permanent` for garbage and truncated files."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise NotExportable(
            f"{path.name} ({len(content)} bytes) is truncated or not ONNX: {error}",
            remedy="log the model again, and check that the upload finished",
        ) from error
    if not model.ir_version or not model.HasField("graph"):
        raise NotExportable(
            f"{path.name} ({len(content)} bytes) holds no ONNX graph", remedy="log the model again"
        )
    return model


def tensor_specs(model: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs. Raises `Permanent` for sequences, maps, unknown ranks, and a fixed batch."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_spec(value, "input") for value in model.graph.input if value.name not in constants)
    outputs = tuple(_spec(value, "output") for value in model.graph.output)
    if not inputs or not outputs:
        raise NotExportable("the ONNX model has no inputs or no outputs", remedy="export it again")
    for spec in inputs:
        if spec.shape[0] != -1:
            raise NotExportable(
                f"input {spec} takes exactly {spec.shape[0]} rows at once",
                remedy="export it with a free first dimension (torch: dynamic_shapes, skl2onnx: None)",
            )
    return inputs, outputs


def _spec(value: onnx.ValueInfoProto, role: str) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise NotExportable(
            f"{role} `{value.name}` is a {str(kind).removesuffix('_type')}, and clients send and get tensors",
            remedy="export tensors; for scikit-learn classifiers convert with zipmap=False",
        )
    tensor = value.type.tensor_type
    datatype = _DATATYPES.get(tensor.elem_type)
    if datatype is None or not tensor.HasField("shape") or not tensor.shape.dim:
        raise NotExportable(
            f"{role} `{value.name}` has no shape, or a type that the inference protocol lacks",
            remedy="export it with shapes, a batch dimension first, in a common type such as float32",
        )
    shape = (dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return TensorSpec(value.name, datatype, tuple(shape))


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere in the model, also where exporters put none: a path may hide there."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else [value]:
                yield from _tensors(inner)


def _external_bytes(tensor: onnx.TensorProto, folder: Path) -> int:
    """Size of this tensor's data. Raises `Permanent` if it is not in a regular file in `folder`."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _external_file(tensor.name, entries.get("location", ""), folder)
    return int(entries.get("length") or path.stat().st_size)


def _external_file(tensor: str, location: str, folder: Path) -> Path:
    written = PurePosixPath(location)
    path = folder / written
    is_inside = location and not written.is_absolute() and ".." not in written.parts and "\0" not in location
    if not is_inside or not path.resolve().is_relative_to(folder.resolve()) or _has_link(path, folder):
        raise NotExportable(
            f"tensor `{tensor}` keeps its data in `{location}`, outside the model's folder",
            remedy="save the model with its data beside it, or inside (save_as_external_data=False)",
        )
    if not path.is_file():
        raise NotExportable(
            f"external data `{location}` is missing", remedy="log the model with all its files"
        )
    return path


def _has_link(path: Path, folder: Path) -> bool:
    inner = path.relative_to(folder)
    return any((folder / part).is_symlink() for part in (inner, *inner.parents))


def _inlined(model: onnx.ModelProto, external: list[onnx.TensorProto], path: Path) -> bytes:
    try:
        for tensor in external:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
    except Exception as error:  # offsets and lengths beyond the file: ValueError, OSError, ValidationError
        raise NotExportable(f"external data cannot be read: {error}", remedy="log the model again") from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _check(model: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        why = explain(error, otherwise="export it again with a current exporter")
        raise NotExportable(f"{path.name} is not valid ONNX: {why.problem}", remedy=why.remedy) from error
