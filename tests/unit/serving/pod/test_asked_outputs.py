"""Which outputs a client asks for and in which form: bounded in size and memory, and always valid JSON."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

import numpy as np
import orjson
import pytest
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import service_pb2

from model_store.engines.signature import Signature, tensor_spec
from serving.pod.call import BatchOutputs
from serving.pod.codec.request import WantedOutput
from serving.pod.codec.response import ResponseWriter
from serving.pod.grpc.tensors import MessageWriter, read_message
from tests.bundles import make_bundle, model_of
from tests.pods import RunningPod, running_pod
from tests.unit.serving.pod.unary import message, refusal

INPUT = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("times", [2, 200])
def test_an_output_asked_for_twice_is_refused(pod: RunningPod, binary: bool, times: int) -> None:
    entry = {"name": "label", "parameters": {"binary_data": binary}}
    answer = pod.infer({"inputs": [INPUT], "outputs": [entry] * times})
    assert answer.status_code == 400
    assert "output 'label' is asked for twice" in answer.json()["error"]


def test_an_output_asked_for_in_two_forms_is_refused(pod: RunningPod) -> None:
    forms = [{"name": "label", "parameters": {"binary_data": binary}} for binary in (True, False)]
    assert pod.infer({"inputs": [INPUT], "outputs": forms}).status_code == 400


@pytest.mark.parametrize("times", [2, 10_000])
def test_an_output_asked_for_twice_in_grpc_is_refused(stub: Any, times: int) -> None:
    assert "output 'label' is asked for twice" in refusal(stub, message(*["label"] * times))


def test_outputs_come_in_the_order_asked_for(pod: RunningPod, stub: Any) -> None:
    for names in permutations(["label", "probabilities"]):
        answer = pod.infer({"inputs": [INPUT], "outputs": [{"name": name} for name in names]})
        assert [output["name"] for output in answer.json()["outputs"]] == list(names)
        assert [output.name for output in stub.ModelInfer(message(*names)).outputs] == list(names)


# What one kept answer remembers


MANY = Signature.of(
    (tensor_spec("x", "FP32", [-1, 2]),), tuple(tensor_spec(f"y{i}", "FP32", [-1, 2]) for i in range(5))
)


def kept_outputs() -> BatchOutputs:
    return BatchOutputs([np.full((1, 2), i, np.float32) for i in range(5)], MANY)


def test_a_kept_answer_remembers_few_of_the_orders_it_was_asked_for_in() -> None:
    outputs, writer = kept_outputs(), ResponseWriter("m", "1", MANY)
    for order in permutations(range(5)):
        wanted = tuple(WantedOutput(position, True) for position in order)
        head, blob = writer.chosen(outputs, 0, 1, "", wanted)
        assert [entry["name"] for entry in orjson.loads(head)["outputs"]] == [f"y{i}" for i in order]
        assert np.frombuffer(blob, np.float32)[::2].tolist() == list(order)
    assert len(outputs.templates) <= 8
    assert orjson.loads(writer.plain(outputs, 0, 1, ""))["outputs"][4]["data"] == [4.0, 4.0]


def test_a_kept_answer_remembers_few_of_the_orders_it_was_asked_for_in_grpc() -> None:
    outputs, writer = kept_outputs(), MessageWriter("m", "1", MANY)
    for order in permutations(range(5)):
        asked = service_pb2.ModelInferRequest(model_name="m")
        asked.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        asked.raw_input_contents.append(bytes(8))
        for position in order:
            asked.outputs.add(name=f"y{position}")
        written = writer.write(outputs, 0, 1, read_message(MANY, asked))
        answer = service_pb2.ModelInferResponse.FromString(written)
        assert [output.name for output in answer.outputs] == [f"y{i}" for i in order]
        assert [np.frombuffer(raw, np.float32)[0] for raw in answer.raw_output_contents] == list(order)
    assert len(outputs.templates) <= 8


# Outputs without elements


def cut_off() -> Any:
    """x [N, L] to y [N, M]: its columns from the third on, so none for two."""
    value, constant = helper.make_tensor_value_info, numpy_helper.from_array
    return model_of(
        [helper.make_node("Slice", ["x", "from", "to", "axis"], ["y"])],
        [value("x", TensorProto.FLOAT, ["N", "L"])],
        [value("y", TensorProto.FLOAT, ["N", "M"])],
        [constant(np.array([n], np.int64), name) for n, name in ((2, "from"), (9, "to"), (1, "axis"))],
    )


@pytest.fixture(scope="module")
def cutting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPod]:
    with running_pod(make_bundle(tmp_path_factory.mktemp("bundles"), cut_off(), name="cut")) as running:
        yield running


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("more", [{}, {"outputs": [{"name": "y"}]}])
def test_an_output_without_elements_is_an_empty_list(
    cutting: RunningPod, rows: int, more: dict[str, Any]
) -> None:
    tensor = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": [1.0] * rows * 2}
    (output,) = orjson.loads(cutting.infer({"inputs": [tensor], **more}, "cut").content)["outputs"]
    assert (output["shape"], output["data"]) == ([rows, 0], [])
