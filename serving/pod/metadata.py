"""What the pod says about itself and its models, in the protocol's words."""

from __future__ import annotations

from typing import Any

import orjson

from model_store.engines.signature import Signature, TensorSpec
from serving.pod.model import ServedModel
from serving.pod.repository import Repository

VERSION = "0.1.0"
# What the protocol calls them; Triton's configuration has other names for them.
_PLATFORMS = {".onnx": "onnx_onnxv1", ".plan": "tensorrt_plan", ".json": "mlflow_pyfunc"}


def extensions(*, manages: bool) -> list[str]:
    """Of the protocol, as offered where the model repository is managed, or not."""
    managing = ["model_repository"] if manages else []
    return ["binary_tensor_data", "model_configuration", *managing, "statistics"]


def server_metadata(*, manages: bool) -> bytes:
    return orjson.dumps({"name": "slipway", "version": VERSION, "extensions": extensions(manages=manages)})


def model_metadata(model: ServedModel, versions: list[str]) -> dict[str, Any]:
    """As `GET /v2/models/<m>` answers."""
    return {
        "name": model.name,
        "versions": versions,
        "platform": _PLATFORMS.get(model.manifest.file.suffix, _backend_format(model)),
        "inputs": [_tensor(spec) for spec in model.signature.inputs],
        "outputs": [_tensor(spec) for spec in model.signature.outputs],
        "properties": {"bundle": model.manifest.id, "precision": model.manifest.precision},
    }


def model_config(model: ServedModel) -> dict[str, Any]:
    """As `GET /v2/models/<m>/config` and `ModelConfig` answer: what of Triton's configuration is true here.

    Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
    """
    settings, signature = model.manifest.settings, model.signature
    config: dict[str, Any] = {
        "name": model.name,
        "platform": _backend_format(model),
        "backend": model.manifest.platform,
        "max_batch_size": settings.max_batch_size if signature.is_batched else 0,
        "input": [_tensor_config(spec, signature) for spec in signature.inputs],
        "output": [_tensor_config(spec, signature) for spec in signature.outputs],
        "default_model_filename": model.manifest.file.name,
    }
    if signature.is_batched:
        delay = round(settings.max_queue_delay_ms * 1000)
        config["dynamic_batching"] = {"max_queue_delay_microseconds": delay}
    return config


def _backend_format(model: ServedModel) -> str:
    return f"{model.manifest.platform}_{model.manifest.file.suffix.lstrip('.')}"


def _tensor_config(spec: TensorSpec, signature: Signature) -> dict[str, Any]:
    """Without the dimension of the rows, as Triton has it where it batches."""
    kind = "STRING" if spec.datatype.name == "BYTES" else spec.datatype.name
    dims = list(spec.shape[1:] if signature.is_batched else spec.shape)
    return {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": dims}


def repository_index(repository: Repository, *, only_ready: bool) -> list[dict[str, str]]:
    """As `POST /v2/repository/index` answers."""
    return [
        {
            "name": entry.name,
            "version": entry.version,
            "state": "READY" if entry.is_ready else "UNAVAILABLE",
            "reason": entry.why_not,
        }
        for entry in repository.entries
        if entry.is_ready or not only_ready
    ]


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": list(spec.shape)}
