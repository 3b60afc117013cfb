"""Where a request's tensors may be: in the request, once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pods import RunningPod
from tests.unit.serving.pod.unary import message, refusal

INPUT = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
REGION = {"shared_memory_region": "r", "shared_memory_byte_size": 16}


@pytest.mark.parametrize("data", [{"data": [1, 2, 3, 4]}, {}])
def test_a_tensor_in_shared_memory_is_refused(pod: RunningPod, data: dict[str, Any]) -> None:
    tensor = {key: INPUT[key] for key in ("name", "shape", "datatype")}
    answer = pod.infer({"inputs": [{**tensor, **data, "parameters": REGION}]})
    assert answer.status_code == 400
    assert "input 'input': shared memory is not offered" in answer.json()["error"]


def test_an_output_for_shared_memory_is_refused(pod: RunningPod) -> None:
    answer = pod.infer({"inputs": [INPUT], "outputs": [{"name": "label", "parameters": REGION}]})
    assert answer.status_code == 400
    assert "output 'label': shared memory is not offered" in answer.json()["error"]


def in_shared_memory(tensor: Any) -> None:
    tensor.parameters["shared_memory_region"].string_param = "r"


@pytest.mark.parametrize("raw", [True, False])
def test_a_tensor_in_shared_memory_is_refused_in_grpc(stub: Any, raw: bool) -> None:
    asked = message()
    in_shared_memory(asked.inputs[0])
    if not raw:
        del asked.raw_input_contents[:]
    assert "input 'input': shared memory is not offered" in refusal(stub, asked)


def test_an_output_for_shared_memory_is_refused_in_grpc(stub: Any) -> None:
    asked = message("label")
    in_shared_memory(asked.outputs[0])
    assert "output 'label': shared memory is not offered" in refusal(stub, asked)


def test_raw_and_typed_contents_together_are_refused(stub: Any) -> None:
    asked = message()
    asked.inputs[0].contents.fp32_contents.extend([9, 9, 9, 9])
    assert "both" in refusal(stub, asked)


def test_empty_typed_contents_beside_raw_ones_are_nothing(stub: Any) -> None:
    asked = message()
    asked.inputs[0].contents.SetInParent()
    assert len(stub.ModelInfer(asked).raw_output_contents) == 2
