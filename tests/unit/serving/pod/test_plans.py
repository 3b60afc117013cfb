"""A request read by a remembered plan is read exactly as it would have been without."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.engines.signature import Signature, tensor_spec
from serving.pod.codec.plans import Plans, RequestPlan, cuts_after, is_plannable, rest_of
from serving.pod.codec.request import InferRequest, read_request
from serving.pod.grpc.messages import message
from serving.pod.grpc.tensors import cuts_of, read_message
from tests.bundles import make_bundle, mlp
from tests.pods import running_pod

SIGNATURE = Signature.of(
    (tensor_spec("a", "INT8", [-1, -1]), tensor_spec("b", "INT16", [-1, 2])),
    (tensor_spec("y", "INT64", [-1]),),
)
ModelInferRequest = message("ModelInferRequest")

blobs = st.tuples(st.binary(min_size=6, max_size=6), st.binary(min_size=8, max_size=8))
shapes = st.sampled_from([([2, 3], [2, 2]), ([2, 3], [2, 2]), ([1, 6], [1, 4]), ([3, 2], [3, 2])])


def same(one: InferRequest, other: InferRequest) -> bool:
    plain = [bytes(part) for part in one.data] == [bytes(part) for part in other.data]  # type: ignore[arg-type]
    return plain and one[1:] == other[1:]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(blobs, st.booleans(), st.sampled_from(["", "x"])), min_size=2, max_size=8))
def test_rest_bodies_read_by_plan_are_read_the_same(
    script: list[tuple[tuple[bytes, bytes], bool, str]],
) -> None:
    plans = Plans()
    planned = 0
    for (a, b), swapped, request_id in script:
        tensors: list[tuple[dict[str, Any], bytes]] = [
            ({"name": "a", "datatype": "INT8", "shape": [2, 3], "parameters": {"binary_data_size": 6}}, a),
            ({"name": "b", "datatype": "INT16", "shape": [2, 2], "parameters": {"binary_data_size": 8}}, b),
        ]
        tensors = tensors[::-1] if swapped else tensors
        fields = {"id": request_id} if request_id else {}
        head = json.dumps({"inputs": [entry for entry, _ in tensors], **fields}).encode()
        body = head + b"".join(blob for _, blob in tensors)
        slow = read_request(SIGNATURE, body, len(head))
        plan = plans.find(head, len(body))
        if plan is None:
            plans.keep(head, RequestPlan(cuts_after(head, SIGNATURE), len(body), slow))
        else:
            planned += 1
            assert same(plan.read(body), slow)
            assert plans.find(head, len(body) + 1) is None
    assert planned or len({(swapped, request_id) for _, swapped, request_id in script}) > 1 or script[0][2]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(blobs, shapes, st.booleans()), min_size=2, max_size=10))
def test_grpc_messages_read_by_plan_are_read_the_same(
    script: list[tuple[tuple[bytes, bytes], tuple[list[int], list[int]], bool]],
) -> None:
    plans = Plans()
    for (a, b), (shape_a, shape_b), swapped in script:
        request = ModelInferRequest(model_name="m")
        tensors = [("a", "INT8", shape_a, a), ("b", "INT16", shape_b, b)]
        for name, datatype, shape, raw in tensors[::-1] if swapped else tensors:
            request.inputs.add(name=name, datatype=datatype, shape=shape)
            request.raw_input_contents.append(raw[: int(np.prod(shape)) * (1 if name == "a" else 2)])
        payload = request.SerializeToString()
        try:
            slow = read_message(SIGNATURE, ModelInferRequest.FromString(payload))
        except Exception:
            assert plans.find_by_shape(payload) is None, "a plan must not accept what is refused"
            continue
        plan = plans.find_by_shape(payload)
        if plan is not None:
            assert same(plan.read(payload), slow)
            continue
        cuts = cuts_of(payload, request, SIGNATURE)
        if cuts is not None:
            rest = rest_of(payload, cuts)
            plans.keep(rest, RequestPlan(cuts, len(payload), slow, rest), by_shape=True)


def test_a_raw_tensor_that_looks_like_its_neighbours_frame_is_not_planned_wrongly() -> None:
    request = ModelInferRequest(model_name="m")
    request.inputs.add(name="a", datatype="INT8", shape=[1, 2])
    request.inputs.add(name="b", datatype="INT16", shape=[1, 2])
    request.raw_input_contents.extend([b"\x3a\x04", b"\x3a\x04\x3a\x04"])
    payload = request.SerializeToString()
    cuts = cuts_of(payload, request, SIGNATURE)
    if cuts is not None:
        assert [payload[start:end] for start, end in cuts] == [b"\x3a\x04", b"\x3a\x04\x3a\x04"]


def test_text_and_truth_values_are_never_planned() -> None:
    def takes(datatype: str) -> bool:
        return is_plannable(
            Signature.of((tensor_spec("x", datatype, [-1]),), (tensor_spec("y", "FP32", [-1]),))
        )

    assert takes("FP32")
    assert not takes("BYTES")
    assert not takes("BOOL")


def test_a_plan_does_not_outlive_its_model(tmp_path: Any) -> None:
    bundles = [make_bundle(tmp_path, mlp(seed=v), version=v) for v in (1, 2)]
    request = ModelInferRequest(model_name="credit_risk")
    request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(np.arange(4, dtype=np.float32).tobytes())
    with running_pod(*bundles) as pod:
        infer = next(m for p, m in pod.pod.front.service._methods.items() if p.endswith(b"/ModelInfer"))
        payload = request.SerializeToString()
        versions = [infer.read(payload)[0].model.version for _ in range(2)]  # type: ignore[attr-defined]
        assert versions == ["2", "2"]
        entry = pod.pod.repository.find("credit_risk", "2")
        entry.model = None
        pod.pod.repository._index()
        assert infer.read(payload)[0].model.version == "1"  # type: ignore[attr-defined]
