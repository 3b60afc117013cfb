"""One input is one input, in whichever form it came: what is kept for one is found for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import orjson
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from model_store.engines.signature import Signature, tensor_spec
from serving.pod.call import Call
from tests.bundles import elementwise, make_bundle
from tests.pods import running_pod

FIXED = Signature.of((tensor_spec("x", "FP32", [-1, 2]),), (tensor_spec("y", "FP32", [-1, 2]),))


def test_the_same_bytes_are_the_same_input_however_they_came() -> None:
    data = np.array([[1, 2]], np.float32).tobytes()
    plain = Call([data], [(1, 2)], FIXED).identify(FIXED)
    viewed = Call([memoryview(b"head" + data)[4:]], [(1, 2)], FIXED).identify(FIXED)
    assert plain == viewed == data
    assert type(viewed) is bytes


@pytest.mark.parametrize("columns", [4, 20_000])
def test_an_answer_kept_for_json_is_found_for_binary_and_grpc(tmp_path: Path, columns: int) -> None:
    values = np.arange(columns, dtype=np.float32).reshape(1, -1)
    tensor: dict[str, Any] = {"name": "x", "shape": [1, columns], "datatype": "FP32"}
    blob = values.tobytes()
    sized = {**tensor, "parameters": {"binary_data_size": len(blob)}}
    head = orjson.dumps({"id": "one", "inputs": [sized]})
    with running_pod(
        make_bundle(tmp_path, elementwise(shape=("N", columns)), serving={"cache": {}})
    ) as running:
        answers: list[Any] = [
            running.infer({"inputs": [{**tensor, "data": values.ravel().tolist()}]}),
            running.http.post(
                "/v2/models/credit_risk/infer",
                content=head + blob,
                headers={"inference-header-content-length": str(len(head))},
            ),
        ]
        assert [answer.headers.get("x-slipway-cache") for answer in answers] == [None, "memory"]
        with grpc.insecure_channel(f"127.0.0.1:{running.port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            asked = service_pb2.ModelInferRequest(model_name="credit_risk")
            asked.inputs.add(name="x", datatype="FP32", shape=[1, columns])
            asked.raw_input_contents.append(blob)
            for _ in range(2):  # the second time without parsing it
                _, call = stub.ModelInfer.with_call(asked)
                assert dict(call.initial_metadata())["x-slipway-cache"] == "memory"
