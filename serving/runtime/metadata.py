"""What the pod says about itself and its models, in the protocol's words."""

from __future__ import annotations

from typing import Any

import orjson

from serving.runtime.model import ServedModel
from serving.runtime.repository import Repository
from serving.runtime.signature import TensorSpec

VERSION = "0.1.0"


def extensions(*, manages: bool) -> list[str]:
    """Of the protocol, as offered where the model repository is managed, or not."""
    return ["binary_tensor_data", *(["model_repository"] if manages else [])]


def server_metadata(*, manages: bool) -> bytes:
    return orjson.dumps({"name": "slipway", "version": VERSION, "extensions": extensions(manages=manages)})


def model_metadata(model: ServedModel, versions: list[str]) -> dict[str, Any]:
    """As `GET /v2/models/<m>` answers."""
    return {
        "name": model.name,
        "versions": versions,
        "platform": f"{model.manifest.platform}_{model.manifest.file.suffix.lstrip('.')}",
        "inputs": [_tensor(spec) for spec in model.signature.inputs],
        "outputs": [_tensor(spec) for spec in model.signature.outputs],
        "parameters": {"bundle": model.manifest.id, "precision": model.manifest.precision},
    }


def repository_index(repository: Repository, *, only_ready: bool) -> list[dict[str, str]]:
    """As `POST /v2/repository/index` answers."""
    return [
        {
            "name": entry.name,
            "version": entry.version,
            "state": "READY" if entry.model else "UNAVAILABLE",
            "reason": entry.reason,
        }
        for entry in repository.entries
        if entry.model or not only_ready
    ]


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": list(spec.shape)}
