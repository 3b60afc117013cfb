"""Values a model cannot take are their sender's mistake; whatever else breaks in an engine is not."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.bundles import make_bundle, mlp, model_of
from tests.pods import RunningPod, running_pod

_VALUE = helper.make_tensor_value_info


def cast(to: int) -> onnx.ModelProto:
    """Text to numbers."""
    node = helper.make_node("Cast", ["x"], ["y"], to=to)
    return model_of([node], [_VALUE("x", TensorProto.STRING, ["N", 1])], [_VALUE("y", to, ["N", 1])])


def encoder() -> onnx.ModelProto:
    """Categories to columns, unknown ones refused."""
    node = helper.make_node(
        "OneHotEncoder", ["x"], ["y"], domain="ai.onnx.ml", cats_strings=["1.5", "2"], zeros=0
    )
    inputs = [_VALUE("x", TensorProto.STRING, ["N", 1])]
    graph = helper.make_graph([node], "test", inputs, [_VALUE("y", TensorProto.FLOAT, ["N", 1, 2])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def serve(tmp_path: Path, model: onnx.ModelProto) -> Any:
    return running_pod(make_bundle(tmp_path, model, warmup={"x": np.array([["2"]])}))


def send(pod: RunningPod, texts: Sequence[str]) -> httpx.Response:
    tensor = {"name": "x", "shape": [len(texts), 1], "datatype": "BYTES", "data": list(texts)}
    return pod.infer({"inputs": [tensor]})


@pytest.mark.parametrize(
    ("model", "good"),
    [
        (cast(TensorProto.FLOAT), "1.5"),
        (cast(TensorProto.INT64), "15"),
        (cast(TensorProto.UINT8), "15"),
        (encoder(), "1.5"),
    ],
    ids=["float", "integer", "unsigned", "category"],
)
def test_values_an_operator_cannot_take_are_the_callers_mistake(
    tmp_path: Path, model: onnx.ModelProto, good: str
) -> None:
    with serve(tmp_path, model) as pod:
        response = send(pod, ["abc"])
        assert response.status_code == 400, response.text
        assert "refuses" in response.json()["error"]
        assert response.headers["x-slipway-refused"] == "model"
        assert send(pod, [good]).status_code == 200
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            texts = ["abc", good, good, good] * 10
            answers = list(threads.map(lambda text: send(pod, [text]).status_code, texts))
        assert answers == [400, 200, 200, 200] * 10


def test_what_the_signature_forbids_is_not_called_the_models_refusal(tmp_path: Path) -> None:
    with serve(tmp_path, encoder()) as pod:
        assert "x-slipway-refused" not in send(pod, ["1.5"]).headers
        for wrong in ({"inputs": []}, {"inputs": [{"name": "y", "shape": [1], "datatype": "BYTES"}]}):
            response = pod.infer(wrong)
            assert response.status_code == 400
            assert "x-slipway-refused" not in response.headers


def test_numbers_that_this_version_forbids_are_its_own_refusal(tmp_path: Path) -> None:
    with running_pod(make_bundle(tmp_path, mlp())) as pod:
        size = {"binary_data_size": 16}
        tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": size}
        head = json.dumps({"inputs": [tensor]}).encode()
        body = head + np.array([1, 2, 3, np.nan], np.float32).tobytes()
        headers = {"inference-header-content-length": str(len(head))}
        response = pod.http.post("/v2/models/credit_risk/infer", content=body, headers=headers)
        assert (response.status_code, response.headers["x-slipway-refused"]) == (400, "model")


def test_a_refusal_says_whose_it_is_over_grpc_too(tmp_path: Path) -> None:
    with serve(tmp_path, encoder()) as pod, grpc.insecure_channel(f"127.0.0.1:{pod.port}") as channel:
        asked = service_pb2.ModelInferRequest(model_name="credit_risk")
        asked.inputs.add(name="x", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"abc")
        with pytest.raises(grpc.RpcError) as refused:
            service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(asked)
        said = dict([*refused.value.initial_metadata(), *refused.value.trailing_metadata()])
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert said["x-slipway-refused"] == "model"


@pytest.mark.parametrize(
    "words",
    [
        "Non-zero status code returned while running Cast node. Name:'' Status Message: no such kernel",
        "Non-zero status code returned while running Conv node. Name:'' Status Message: stod",
        "Non-zero status code returned while running Conv node. Name:'' Status Message: Unknown Category",
    ],
)
def test_whatever_else_breaks_in_an_operator_is_the_models_failure(tmp_path: Path, words: str) -> None:
    def run(_: object) -> None:
        raise RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {words}")

    with serve(tmp_path, encoder()) as pod:
        pod.pod.repository.models[0].engine._run = run  # type: ignore[attr-defined]
        assert send(pod, ["2"]).status_code == 500
