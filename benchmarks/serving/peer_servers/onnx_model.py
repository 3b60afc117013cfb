"""What every peer serves: the same ONNX file, the same onnxruntime settings as the pod, the same JSON.

Runs in each peer's own environment, so it imports only numpy and onnxruntime.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import onnxruntime as ort

MODEL = os.environ.get("BENCH_MODEL", "")
PORT = int(os.environ.get("BENCH_PORT", "0"))
BATCH, BATCH_SECONDS = 32, 0.002
TYPES = {"FP32": np.float32, "INT64": np.int64}


def open_session():
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])


def arrays_of(document):
    """The inputs of an OIP request, by name."""
    return {
        tensor["name"]: np.array(tensor["data"], TYPES[tensor["datatype"]]).reshape(tensor["shape"])
        for tensor in document["inputs"]
    }


def stacked(requests):
    """Several requests' inputs as one batch."""
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def answer(session, outputs):
    """An OIP response of output arrays."""
    names = {np.dtype(np.float32): "FP32", np.dtype(np.int64): "INT64"}
    return {
        "model_name": "m",
        "outputs": [
            {
                "name": value.name,
                "datatype": names[a.dtype],
                "shape": list(a.shape),
                "data": a.ravel().tolist(),
            }
            for value, a in zip(session.get_outputs(), outputs, strict=True)
        ],
    }


if __name__ == "__main__":
    sys.exit("imported by the peers")
