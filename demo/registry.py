"""Registering the demo's versions in MLflow as any team would, whatever they were trained with."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import onnx

from demo.place import DemoHome
from model_store.errors import Permanent, Retryable


@dataclass(frozen=True, slots=True)
class Version:
    """A trained version as ONNX bytes. `metrics` must have `accuracy`, on the evaluation rows."""

    number: int
    story: str
    onnx: bytes
    metrics: Mapping[str, float]
    params: Mapping[str, Any] = field(default_factory=dict)


def be_quiet() -> None:
    """MLflow prints links, bars and usage reports of its own; a training prints one JSON line a version."""
    quiet = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.environ |= quiet | {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}


def register(version: Version, model: str, *, tracking_url: str) -> int:
    """Log the run and its model, register it, and return the version's number.

    Raises `Permanent` when the registry already holds other versions, so that it is not `version.number`.
    """
    import mlflow

    mlflow.set_tracking_uri(tracking_url)
    mlflow.set_experiment(f"{model} training")
    with mlflow.start_run(run_name=f"{model} v{version.number}"):
        mlflow.log_params(dict(version.params))
        mlflow.log_metrics(dict(version.metrics))
        info = mlflow.onnx.log_model(
            onnx.load_model_from_string(version.onnx),
            name="model",
            registered_model_name=model,
            pip_requirements=["onnx", "onnxruntime"],
            save_as_external_data=False,
        )
    number = int(info.registered_model_version or 0)
    describe(model, version.number, number, version.story)
    return number


def describe(model: str, wanted: int, number: int, story: str) -> None:
    """Tell the version's story in the registry. Raises `Permanent` when it got another number."""
    from mlflow import MlflowClient

    if number != wanted:
        raise Permanent(
            f"the registry made {model} v{number} of the demo's version {wanted}",
            remedy="run the demo in a fresh SLIPWAY_HOME",
        )
    MlflowClient().update_model_version(model, str(number), description=story)


def wait_for_registry(home: DemoHome, *, seconds: float = 400) -> None:
    """Until MLflow answers. Raises `Retryable` when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{home.mlflow_url}/health", trust_env=False).is_success:
                return
        time.sleep(0.5)
    raise Retryable(
        f"MLflow does not answer at {home.mlflow_url} after {seconds:.0f} s",
        remedy=f"Read {home.logs / 'mlflow.log'}.",
    )
