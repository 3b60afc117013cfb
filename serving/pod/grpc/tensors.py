"""gRPC infer messages to calls and back: raw or typed contents in, raw contents out (as Triton answers)."""

from __future__ import annotations

from typing import Any

import numpy as np

from model_store.engines.errors import Refused
from model_store.engines.signature import Shape, Signature, TensorSpec
from serving.pod.call import BatchOutputs, Data
from serving.pod.codec.blob import read_blob
from serving.pod.codec.plans import Cuts
from serving.pod.codec.request import InferRequest, WantedOutput, asked_twice, expect_own_bytes
from serving.pod.grpc.messages import message

ModelInferResponse = message("ModelInferResponse")
_RAW_OUTPUT_TAG = b"\x32"  # field 6, length-delimited
_RAW_INPUT_TAG = b"\x3a"  # field 7, length-delimited
_ID_TAG = b"\x1a"  # field 3, length-delimited
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read_message(signature: Signature, request: Any) -> InferRequest:
    """Check a ModelInferRequest. Raises `Refused` (INVALID_ARGUMENT)."""
    raw = request.raw_input_contents
    entries = _entries(request.inputs, signature, len(raw))
    data: list[Data] = []
    shapes: list[Shape] = []
    for spec, (position, entry) in zip(signature.inputs, entries, strict=True):
        shape, count = _accept(spec, entry)
        data.append(_raw(spec, entry, raw[position], count) if raw else _typed(spec, entry, count))
        shapes.append(shape)
    if len(shapes) > 1 and signature.is_batched and len({shape[0] for shape in shapes}) > 1:
        raise Refused("inputs have different numbers of rows", remedy="give every input the same rows")
    data = [bytes(part) if type(part) is memoryview else part for part in data]
    return InferRequest(
        data, shapes, request.id, _wanted(request, signature), _parameters(request.parameters)
    )


def _entries(inputs: Any, signature: Signature, raw: int) -> list[tuple[int, Any]]:
    found = {entry.name: (position, entry) for position, entry in enumerate(inputs)}
    if len(found) != len(inputs) or found.keys() != signature.positions.keys():
        raise Refused(
            f"the inputs are {str([entry.name for entry in inputs])[:200]}",
            remedy=f"send exactly these inputs, each once: {', '.join(signature.positions)}",
        )
    for entry in inputs:
        # Before the contents are counted: these have none.
        expect_own_bytes("input", entry.name, entry.parameters)
    if raw and raw != len(inputs):
        raise Refused(
            f"{raw} raw_input_contents for {len(inputs)} inputs", remedy="send one for each input or none"
        )
    return [found[spec.name] for spec in signature.inputs]


def _accept(spec: TensorSpec, entry: Any) -> tuple[Shape, int]:
    if entry.datatype != spec.datatype.name:
        raise Refused(
            f"input {spec.name!r}: datatype {entry.datatype[:40]!r}",
            remedy=f"send {spec.datatype.name}; the pod never casts",
        )
    shape = tuple(entry.shape)
    return spec.accepted.get(shape) or spec.accept(shape)


def _raw(spec: TensorSpec, entry: Any, raw: bytes, count: int) -> Data:
    if entry.HasField("contents") and entry.contents.ByteSize():
        raise Refused(
            f"input {spec.name!r} has both contents and raw_input_contents", remedy="send one of them"
        )
    return read_blob(spec, memoryview(raw), count)


def _typed(spec: TensorSpec, entry: Any, count: int) -> Data:
    field = _CONTENTS.get(spec.datatype.name)
    if field is None:
        raise Refused(
            f"input {spec.name!r}: {spec.datatype.name} has no typed contents",
            remedy="send raw_input_contents",
        )
    values = list(getattr(entry.contents, field))
    if len(values) != count:
        raise Refused(
            f"input {spec.name!r}: {len(values)} values in {field}, its shape needs {count}",
            remedy=f"send {count} values in {field}, or raw_input_contents",
        )
    if spec.datatype.name == "BYTES":
        return values
    try:
        return np.array(values, spec.datatype.dtype).tobytes()
    except OverflowError as error:
        raise Refused(f"input {spec.name!r}: {error}", remedy=f"send {spec.datatype.name} values") from error


def _wanted(request: Any, signature: Signature) -> tuple[WantedOutput, ...] | None:
    if not request.outputs:
        return None
    names = [spec.name for spec in signature.outputs]
    found: dict[int, WantedOutput] = {}
    for entry in request.outputs:
        if entry.name not in names:
            raise Refused(f"no output {entry.name[:100]!r}", remedy=f"the model has: {', '.join(names)}")
        expect_own_bytes("output", entry.name, entry.parameters)
        if "classification" in entry.parameters:
            raise Refused("the classification extension is not served", remedy="take the scores")
        position = names.index(entry.name)
        if position in found:
            raise asked_twice(entry.name)
        found[position] = WantedOutput(position, True)
    return tuple(found.values())


def cuts_of(payload: bytes, request: Any, signature: Signature) -> Cuts | None:
    """Where in the serialised message the raw contents are; None unless that is certain."""
    places, at = [], 0
    for raw in request.raw_input_contents:
        at = payload.find(raw, at)
        before = _varint(len(raw))
        if at < 0 or payload[at - len(before) - 1 : at] != _RAW_INPUT_TAG + before:
            return None
        places.append((at, at + len(raw)))
        at += len(raw)
    if len(places) != len(signature.inputs) or at != len(payload):
        return None
    order = {entry.name: position for position, entry in enumerate(request.inputs)}
    return tuple(places[order[spec.name]] for spec in signature.inputs)


def _parameters(found: Any) -> dict[str, Any]:
    if not found:
        return {}
    return {
        key: getattr(value, value.WhichOneof("parameter_choice") or "bool_param")
        for key, value in found.items()
    }


class MessageWriter:
    """Serialises one model's answers. All but raw contents and id is the same for a batch's calls."""

    def __init__(self, name: str, version: str, signature: Signature) -> None:
        self._name, self._version, self._signature = name, version, signature
        self._all = tuple(WantedOutput(i, True) for i in range(len(signature.outputs)))

    def write(self, outputs: BatchOutputs, first: int, rows: int, request: InferRequest) -> bytes:
        """A serialised ModelInferResponse."""
        wanted = request.outputs or self._all
        key = ("grpc", rows, wanted)
        start = outputs.templates.get(key)
        if start is None:
            start = self._start(outputs, first, rows, wanted)
            outputs.remember(key, start)
        parts = [start]
        if request.id:
            text = request.id.encode()
            parts += (_ID_TAG, _varint(len(text)), text)
        for position, _ in wanted:
            blob = outputs.raw(position, first, rows)
            parts += (_RAW_OUTPUT_TAG, _varint(len(blob)), blob)
        return b"".join(parts)

    def _start(self, outputs: BatchOutputs, first: int, rows: int, wanted: tuple[WantedOutput, ...]) -> bytes:
        response = ModelInferResponse(model_name=self._name, model_version=self._version)
        for position, _ in wanted:
            spec, array = self._signature.outputs[position], outputs.slice(position, first, rows)
            response.outputs.add(name=spec.name, datatype=spec.datatype.name, shape=array.shape)
        serialised: bytes = response.SerializeToString()
        return serialised


def _varint(value: int) -> bytes:
    if value < 128:
        return bytes((value,))
    out = bytearray()
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    return bytes(out)
