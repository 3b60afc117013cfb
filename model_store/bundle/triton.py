"""Triton's `config.pbtxt` for one model: protobuf text of `inference.ModelConfig` (model_config.proto)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_store.types import Datatype, TensorSpec

# Open Inference Protocol name -> Triton's enum; only text differs by more than the prefix.
DATA_TYPES: dict[Datatype, str] = {"BYTES": "TYPE_STRING"}

# An engine is inside an ONNX model. `slipway_python` is no backend that Triton brings: it would have to be
# told what runs an MLflow model.
BACKENDS = {
    "onnxruntime": "onnxruntime",
    "python": "slipway_python",
    "tensorrt": "onnxruntime",
    "tensorrt_rtx": "onnxruntime",
}
_ON_CPU = ("onnxruntime", "python")


def model_config(
    name: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    serving: Mapping[str, Any],
) -> str:
    """The text. `serving` gives `runtime`, `max_batch_size`, `max_queue_delay_ms`, `replicas`, `threads`.

    Triton batches only models whose every tensor has a free first dimension, which it then leaves out of
    the shapes; for others `max_batch_size` is 0 and shapes are whole.
    """
    is_batched = all(tensor.shape[:1] == (-1,) for tensor in (*inputs, *outputs))
    kind = "KIND_CPU" if serving["runtime"] in _ON_CPU else "KIND_GPU"
    lines = [
        f"name: {_quoted(name)}",
        f"backend: {_quoted(BACKENDS[serving['runtime']])}",
        f"max_batch_size: {serving['max_batch_size'] if is_batched else 0}",
        *(_tensor("input", tensor, is_batched) for tensor in inputs),
        *(_tensor("output", tensor, is_batched) for tensor in outputs),
        f"instance_group {{ count: 1 kind: {kind} }}",
        "version_policy { latest { num_versions: 1 } }",
    ]
    if is_batched and serving["max_batch_size"] > 1:
        microseconds = round(serving["max_queue_delay_ms"] * 1000)
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {microseconds} }}")
    if serving["runtime"] == "tensorrt":
        accelerator = 'gpu_execution_accelerator : [ { name : "tensorrt" } ]'
        lines.append(f"optimization {{ execution_accelerators {{ {accelerator} }} }}")
    if serving["runtime"] == "onnxruntime":
        lines.append(_parameter("intra_op_thread_count", str(serving["threads"])))
    return "\n".join(lines) + "\n"


def _tensor(kind: str, tensor: TensorSpec, is_batched: bool) -> str:
    sizes = tensor.shape[1:] if is_batched else tensor.shape
    data_type = DATA_TYPES.get(tensor.datatype, f"TYPE_{tensor.datatype}")
    # A batch of scalars has no dimension left; Triton wants one, and a reshape to none.
    shape = "dims: [ 1 ] reshape { }" if not sizes else f"dims: [ {', '.join(map(str, sizes))} ]"
    return f"{kind} {{ name: {_quoted(tensor.name)} data_type: {data_type} {shape} }}"


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
