"""Reads an OIP v2 infer request: JSON, or JSON followed by binary tensors.

Protocol: https://github.com/kserve/open-inference-protocol and Triton's binary tensor data extension.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any, NamedTuple

import orjson

from model_store.engines.errors import Refused
from model_store.engines.signature import Shape, Signature, TensorSpec
from serving.pod.call import Data
from serving.pod.codec import nonfinite
from serving.pod.codec.blob import read_blob
from serving.pod.codec.pack import pack

_NONE: dict[str, Any] = {}
_SIZES = {int}
# So many letters of names are looked at before a body is taken to hold anything.
_LETTERS = 32
# The request parameters anybody downstream reads.
URGENCY = frozenset(("priority", "timeout"))


class WantedOutput(NamedTuple):
    """An output asked for: its position in the signature, and whether as binary data."""

    position: int
    is_binary: bool


class InferRequest(NamedTuple):
    """A checked request. `outputs` is None when the client left the choice to the model; of `parameters` only
    what says how urgent it is."""

    data: list[Data]
    shapes: list[Shape]
    id: str
    outputs: tuple[WantedOutput, ...] | None
    parameters: dict[str, Any]


def read_request(signature: Signature, body: bytes | memoryview, header_length: int | None) -> InferRequest:
    """Parse and check a body; `header_length` is the binary extension's. Raises `Refused` (400, or 413
    for more than there is time for)."""
    document, blobs = _document(body, header_length)
    entries = _tensor_entries(document, signature)
    if blobs.exist:
        blobs.assign(document["inputs"])
    may_hold_bools = blobs.exist or _may_hold_bools(bytes(body))
    data: list[Data] = []
    shapes: list[Shape] = []
    for spec, entry in zip(signature.inputs, entries, strict=True):
        shape, count = _accept(spec, entry)
        values = entry.get("data")
        if values is None and (count or blobs.exist):
            data.append(read_blob(spec, blobs.take(spec, entry), count))
        elif values is None:
            # Clients of the binary extension send neither data nor bytes for a tensor without elements.
            data.append(b"" if spec.datatype.size else [])
        else:
            if count > spec.max_json_elements:
                raise spec.too_large(shape, as_json=True)
            data.append(pack(spec, values, shape, count, may_hold_bools=may_hold_bools))
        shapes.append(shape)
    blobs.expect_end()
    _expect_rows(signature, shapes)
    return InferRequest(data, shapes, _text(document, "id"), *_wishes(document, signature))


def _may_hold_bools(body: bytes) -> bool:
    return _may_hold(b"true", b"u", body) or _may_hold(b"false", b"l", body)


def _may_hold(word: bytes, letter: bytes, body: bytes) -> bool:
    """Whether the word is there, or is not worth looking for.

    By one of its letters, since bytes are searched for one byte ten times as fast as for several; numbers
    hold neither letter, and what surrounds them holds few.
    """
    before, at = word.index(letter), -1
    for _ in range(_LETTERS):
        at = body.find(letter, at + 1)
        if at < 0:
            return False
        if body.startswith(word, max(at - before, 0)):
            return True
    return True


class _Blobs:
    """The binary part of a body, taken front to back in the order of the request's inputs."""

    __slots__ = ("_rest", "_taken", "exist")

    def __init__(self, rest: memoryview, *, exist: bool) -> None:
        self._rest = rest
        self._taken: dict[int, memoryview] = {}
        self.exist = exist

    def assign(self, entries: list[dict[str, Any]]) -> None:
        """Cut the binary part along the `binary_data_size`s. Order on the wire is the request's, not ours."""
        for entry in entries:
            size = _parameters(entry).get("binary_data_size")
            if size is None:
                continue
            if type(size) is not int or not 0 <= size <= len(self._rest):
                raise Refused(
                    f"input {entry.get('name')!r}: binary_data_size {str(size)[:40]} but "
                    f"{len(self._rest)} bytes follow",
                    remedy="send the sizes of the binary parts in the order of the inputs",
                )
            self._taken[id(entry)] = self._rest[:size]
            self._rest = self._rest[size:]

    def take(self, spec: TensorSpec, entry: dict[str, Any]) -> memoryview:
        blob = self._taken.get(id(entry))
        if blob is None:
            raise Refused(
                f"input {spec.name!r} has no `data`", remedy="send `data`, or binary_data_size and bytes"
            )
        return blob

    def expect_end(self) -> None:
        if len(self._rest):
            raise Refused(
                f"{len(self._rest)} bytes follow the last tensor",
                remedy="make the binary_data_size parameters add up to the binary part",
            )


_NO_BLOBS = _Blobs(memoryview(b""), exist=False)


def _document(body: bytes | memoryview, header_length: int | None) -> tuple[dict[str, Any], _Blobs]:
    if header_length is None:
        text, blobs = bytes(body), _NO_BLOBS
    elif 0 <= header_length <= len(body):
        text, blobs = bytes(body[:header_length]), _Blobs(memoryview(body)[header_length:], exist=True)
    else:
        raise Refused(
            f"Inference-Header-Content-Length {header_length} is more than the body's {len(body)} bytes",
            remedy="set it to the length of the JSON part",
        )
    try:
        document = nonfinite.parse(text)
    except orjson.JSONDecodeError as error:
        raise Refused(f"the body is not JSON: {error}", remedy="send an OIP v2 infer request") from error
    if type(document) is not dict:
        raise Refused("the body is not a JSON object", remedy="send an OIP v2 infer request")
    return document, blobs


def _tensor_entries(document: dict[str, Any], signature: Signature) -> list[dict[str, Any]]:
    """The request's inputs in the signature's order."""
    entries = document.get("inputs")
    wanted = signature.inputs
    if type(entries) is list and len(entries) == len(wanted) == 1:
        entry = entries[0]
        if type(entry) is dict and entry.get("name") == wanted[0].name:
            return entries
    return _sorted_entries(entries, signature)


def _sorted_entries(entries: Any, signature: Signature) -> list[dict[str, Any]]:
    expected = ", ".join(spec.name for spec in signature.inputs)
    if type(entries) is not list or not all(type(entry) is dict for entry in entries):
        raise Refused("`inputs` must be a list of tensors", remedy=f"send the inputs {expected}")
    names = [entry.get("name") for entry in entries]
    found = {name: entry for name, entry in zip(names, entries, strict=True) if isinstance(name, str)}
    if len(found) != len(entries) or set(found) != set(signature.positions):
        raise Refused(
            f"the inputs are {str(names)[:200]}",
            remedy=f"send exactly these inputs, each once: {expected}",
        )
    return [found[spec.name] for spec in signature.inputs]


def _accept(spec: TensorSpec, entry: dict[str, Any]) -> tuple[Shape, int]:
    if entry.get("datatype") != spec.datatype.name:
        raise Refused(
            f"input {spec.name!r}: datatype {str(entry.get('datatype'))[:40]}",
            remedy=f"send {spec.datatype.name}; the pod never casts",
        )
    if "parameters" in entry:
        parameters = _parameters(entry)
        expect_own_bytes("input", spec.name, parameters)
        if "binary_data_size" in parameters and entry.get("data") is not None:
            raise Refused(
                f"input {spec.name!r} has both data and binary_data_size", remedy="send one of them"
            )
    shape: Any = entry.get("shape")
    try:
        found = spec.accepted[tuple(shape)]
    except (KeyError, TypeError):
        return spec.accept(shape)
    # 1.0 and true equal 1, and so find what was remembered of it.
    return found if _SIZES.issuperset(map(type, shape)) else spec.accept(shape)


def expect_own_bytes(kind: str, name: str, parameters: Container[str]) -> None:
    """Raises `Refused` for a tensor whose bytes are in the client's memory and not in the message."""
    if "shared_memory_region" in parameters:
        raise Refused(
            f"{kind} {name!r}: shared memory is not offered", remedy="let the tensor travel in the message"
        )


def _expect_rows(signature: Signature, shapes: list[Shape]) -> None:
    if signature.is_batched and len(shapes) > 1 and len({shape[0] for shape in shapes}) > 1:
        raise Refused(
            f"inputs have different numbers of rows: {[shape[0] for shape in shapes]}",
            remedy="give every input the same first dimension",
        )


def _text(document: dict[str, Any], field: str) -> str:
    value = document.get(field)
    if value is None:
        return ""
    if type(value) is not str:
        raise Refused(f"`{field}` must be a string", remedy=f"send `{field}` as a string or leave it out")
    return value


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("parameters")
    if found is None:
        return _NONE
    if type(found) is not dict:
        raise Refused("`parameters` must be an object", remedy="send an object or leave it out")
    return found


def _wishes(
    document: dict[str, Any], signature: Signature
) -> tuple[tuple[WantedOutput, ...] | None, dict[str, Any]]:
    parameters = _parameters(document)
    all_binary = parameters is not _NONE and _flag(parameters, "binary_data_output")
    urgency = _NONE if URGENCY.isdisjoint(parameters) else parameters
    outputs = document.get("outputs")
    if not outputs:
        every = tuple(WantedOutput(i, True) for i in range(len(signature.outputs))) if all_binary else None
        return every, urgency
    return _choice(_listed(outputs), signature, all_binary), urgency


def _listed(outputs: Any) -> list[dict[str, Any]]:
    if type(outputs) is not list or not all(type(entry) is dict for entry in outputs):
        raise Refused(
            "`outputs` must be a list of objects", remedy="name the outputs you want, or leave it out"
        )
    return outputs


def _choice(
    entries: list[dict[str, Any]], signature: Signature, all_binary: bool
) -> tuple[WantedOutput, ...]:
    found: dict[int, WantedOutput] = {}
    for entry in entries:
        wanted = _wanted(entry, signature, all_binary)
        if found.setdefault(wanted.position, wanted) is not wanted:
            raise asked_twice(entry["name"])
    return tuple(found.values())


def asked_twice(name: str) -> Refused:
    """Or a small request would have a huge answer."""
    return Refused(f"output {name!r} is asked for twice", remedy="name each output once")


def _wanted(entry: dict[str, Any], signature: Signature, all_binary: bool) -> WantedOutput:
    names = [spec.name for spec in signature.outputs]
    parameters = _parameters(entry)
    if entry.get("name") not in names:
        raise Refused(
            f"no output {str(entry.get('name'))[:100]!r}", remedy=f"the model has: {', '.join(names)}"
        )
    expect_own_bytes("output", entry["name"], parameters)
    if parameters.get("classification"):
        raise Refused("the classification extension is not served", remedy="take the scores and sort them")
    binary = _flag(parameters, "binary_data", default=all_binary)
    return WantedOutput(names.index(str(entry["name"])), binary)


def _flag(parameters: dict[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise Refused(f"parameter `{name}` is {str(value)[:40]}", remedy="send true or false")
    return value
