"""One request over gRPC, and the words in which it is refused."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2


def message(*outputs: str) -> Any:
    asked = service_pb2.ModelInferRequest(model_name="credit_risk")
    asked.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    asked.raw_input_contents.append(np.array([1, 2, 3, 4], np.float32).tobytes())
    for name in outputs:
        asked.outputs.add(name=name)
    return asked


def refusal(stub: Any, asked: Any) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(asked)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    return str(refused.value.details())  # type: ignore[attr-defined]
