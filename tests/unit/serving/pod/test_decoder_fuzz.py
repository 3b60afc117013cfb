"""Whatever bytes come, the decoders give a request that fits the signature or a refusal, and nothing else."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.engines.datatypes import DATATYPES, narrow_bf16, widen_bf16
from model_store.engines.errors import Refused
from model_store.engines.signature import Signature, tensor_spec
from serving.pod.call import BatchOutputs
from serving.pod.codec.parcel import unwrap, wrap
from serving.pod.codec.request import InferRequest, read_request
from serving.pod.grpc.messages import message
from serving.pod.grpc.tensors import read_message

ModelInferRequest = message("ModelInferRequest")
TWO = Signature.of(
    (tensor_spec("a", "FP32", [-1, 2]), tensor_spec("b", "BYTES", [-1])), (tensor_spec("y", "INT64", [-1]),)
)
ONE = Signature.of((tensor_spec("a", "INT8", [-1, -1]),), (tensor_spec("y", "INT64", [-1]),))

FUZZ = settings(max_examples=150, deadline=None)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["a", "b", "c", "", 1, None]),
        "datatype": st.sampled_from([*DATATYPES, "", "fp32", None, 7]),
        "shape": st.lists(st.integers(-2, 5) | st.sampled_from([2**31, 2**63, 2**70]), max_size=3) | trees,
        "data": st.lists(st.integers(-300, 300) | st.floats() | st.text(max_size=4), max_size=12) | trees,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "x"]), st.integers(-5, 40) | trees, max_size=2
        ),
    },
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3) | trees},
    optional={"id": trees, "outputs": trees, "parameters": trees},
)


def check(request: InferRequest, signature: Signature) -> None:
    """What the engine relies on."""
    assert len(request.data) == len(request.shapes) == len(signature.inputs)
    for spec, data, shape in zip(signature.inputs, request.data, request.shapes, strict=True):
        count = int(np.prod(shape, dtype=object))
        assert 0 not in shape[1:], "only rows may be none"
        assert all(want in (-1, got) for want, got in zip(spec.shape, shape, strict=True))
        if spec.datatype.size:
            assert len(data) == count * spec.datatype.size
        else:
            assert isinstance(data, list)
            assert len(data) == count
            assert all(type(item) is bytes for item in data)


def read(signature: Signature, body: bytes, header_length: int | None = None) -> bool:
    try:
        request = read_request(signature, body, header_length)
    except Refused:
        return False
    check(request, signature)
    return True


@FUZZ
@given(st.binary(max_size=200), st.none() | st.integers(-5, 300))
def test_noise_is_refused(body: bytes, header_length: int | None) -> None:
    assert not read(TWO, body, header_length)


@FUZZ
@given(requests, st.sampled_from([ONE, TWO]))
def test_json_of_the_right_outline_is_checked_to_the_bottom(
    request: dict[str, Any], signature: Signature
) -> None:
    read(signature, json.dumps(request).encode())


@FUZZ
@given(requests, st.binary(max_size=64), st.integers(-3, 3))
def test_binary_parts_that_lie_are_refused_or_fit(request: dict[str, Any], blob: bytes, slip: int) -> None:
    text = json.dumps(request).encode()
    read(TWO, text + blob, len(text) + slip)


@FUZZ
@given(
    st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.integers(0, 200)
)
def test_a_lying_length_prefix_never_reads_past_its_tensor(items: list[bytes], lie: int, at: int) -> None:
    blob = bytearray(b"".join(struct.pack("<I", len(item)) + item for item in items))
    if at + 4 <= len(blob):
        struct.pack_into("<I", blob, at, lie)
    signature = Signature.of((tensor_spec("b", "BYTES", [-1]),), (tensor_spec("y", "INT64", [-1]),))
    entry = {
        "name": "b",
        "datatype": "BYTES",
        "shape": [len(items)],
        "parameters": {"binary_data_size": len(blob)},
    }
    text = json.dumps({"inputs": [entry]}).encode()
    read(signature, text + bytes(blob), len(text))


@FUZZ
@given(st.binary(max_size=120))
def test_grpc_noise_is_refused_or_fits(payload: bytes) -> None:
    try:
        found = ModelInferRequest.FromString(payload)
    except DecodeError:
        return
    with contextlib.suppress(Refused):
        check(read_message(TWO, found), TWO)


@FUZZ
@given(
    st.lists(st.integers(-1, 4), max_size=3),
    st.lists(st.binary(max_size=24), max_size=3),
    st.lists(st.floats(width=32), max_size=6),
    st.sampled_from(["FP32", "BYTES", "INT8", ""]),
)
def test_grpc_tensors_that_lie_are_refused_or_fit(
    shape: list[int], raw: list[bytes], floats: list[float], datatype: str
) -> None:
    request = ModelInferRequest(raw_input_contents=raw)
    first = request.inputs.add(name="a", datatype=datatype, shape=shape)
    first.contents.fp32_contents.extend(floats)
    request.inputs.add(name="b", datatype="BYTES", shape=shape[:1]).contents.bytes_contents.extend(raw)
    with contextlib.suppress(Refused):
        check(read_message(TWO, request), TWO)


@FUZZ
@given(st.data())
def test_what_is_sent_well_formed_is_what_arrives(data: st.DataObject) -> None:
    name = data.draw(
        st.sampled_from([name for name in DATATYPES if name not in ("BYTES", "BOOL", "BF16", "FP16")])
    )
    datatype = DATATYPES[name]
    rows, columns = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    values: Any
    if datatype.is_float:
        width: Any = datatype.size * 8
        values = st.floats(allow_nan=False, allow_infinity=False, width=width)
    else:
        limits: Any = np.iinfo(datatype.dtype.name)
        values = st.integers(int(limits.min), int(limits.max))
    flat = data.draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))
    nested = [flat[row * columns : (row + 1) * columns] for row in range(rows)]
    signature = Signature.of((tensor_spec("a", name, [-1, -1]),), (tensor_spec("y", "INT64", [-1]),))
    sent = data.draw(st.sampled_from([flat, nested]))
    body = {"inputs": [{"name": "a", "datatype": name, "shape": [rows, columns], "data": sent}]}
    if name == "UINT64":
        # orjson prints and reads integers up to 64 bits.
        assert max(flat) < 2**64
    request = read_request(signature, json.dumps(body).encode(), None)
    assert request.data == [np.array(flat, datatype.dtype).tobytes()]


@FUZZ
@given(st.binary(max_size=80))
def test_a_parcel_that_was_tampered_with_is_a_miss(noise: bytes) -> None:
    outputs = BatchOutputs([np.arange(3)], ONE)
    parcel = wrap(outputs)
    assert np.array_equal(unwrap(parcel, ONE).arrays[0], np.arange(3))  # type: ignore[union-attr]
    assert unwrap(noise, ONE) is None
    assert unwrap(parcel[:-1], ONE) is None


@FUZZ
@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1, max_size=20))
def test_bf16_keeps_the_nearest_number_it_has(values: list[float]) -> None:
    found = widen_bf16(narrow_bf16(np.array(values, np.float32))).astype(np.float64)
    exact = np.array(values, np.float64)
    finite = np.abs(exact) < 3.3e38
    assert np.all(np.abs(found[finite] - exact[finite]) <= np.maximum(np.abs(exact[finite]) * 2**-8, 1e-40))


def test_bf16_keeps_nan() -> None:
    assert np.isnan(widen_bf16(narrow_bf16(np.array([np.nan], np.float32))))[0]


@pytest.mark.parametrize("depth", [10, 2_000, 200_000])
def test_a_json_bomb_is_a_refusal(depth: int) -> None:
    assert not read(TWO, b"[" * depth + b"]" * depth)
    body = (
        b'{"inputs":[{"name":"a","datatype":"INT8","shape":[1,1],"data":'
        + b"[" * depth
        + b"1"
        + b"]" * depth
        + b"}]}"
    )
    assert not read(ONE, body)


@pytest.mark.parametrize("lie", [4, 100, 2**32 - 1])
def test_a_length_prefix_past_the_end_is_refused_and_not_cut_to_fit(lie: int) -> None:
    signature = Signature.of((tensor_spec("b", "BYTES", [-1]),), (tensor_spec("y", "INT64", [-1]),))
    blob = struct.pack("<I", 3) + b"abc" + struct.pack("<I", lie) + b"def"
    entry = {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(blob)}}
    text = json.dumps({"inputs": [entry]}).encode()
    with pytest.raises(Refused, match="length prefix"):
        read_request(signature, text + blob, len(text))
