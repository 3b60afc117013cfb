"""A registry and a spec to build bundles from in tests, without MLflow and Great Expectations."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import pytest

from model_store import build
from model_store.build import variants
from model_store.bundle.publishing import load_bundle
from model_store.errors import Retryable
from model_store.gates import profile
from model_store.registry import Downloaded, ModelVersion
from model_store.release_spec import ReleaseSpec
from model_store.stages.base import BuildContext, Gated
from model_store.storage.store import Store
from model_store.types import Bundle, ModelRef
from tests.small_models import Credit

REF = ModelRef("credit_risk", 2)


def has_gpu() -> bool:
    try:
        return bool(ctypes.CDLL("libcuda.so.1").cuInit(0) == 0)
    except OSError:
        return False


no_gpu = pytest.mark.skipif(has_gpu(), reason="there is a GPU here, on which the engine runs")


@dataclass
class Registry:
    """Versions that were logged as ONNX; `down` makes every call fail as an unreachable MLflow does."""

    models: dict[int, bytes]
    champion: tuple[int, str] | None = None
    down: bool = False
    downloads: int = 0

    def describe(self, ref: ModelRef) -> ModelVersion:
        self._answer()
        tags = (
            {"slipway.bundle": self.champion[1]} if self.champion and self.champion[0] == ref.version else {}
        )
        return ModelVersion(
            ref, f"run{ref.version}", "models:/m", "", datetime(2026, 1, 1, tzinfo=UTC), tags, ()
        )

    def download(self, ref: ModelRef, folder: Path, *, max_size_mb: float) -> Downloaded:
        self._answer()
        self.downloads += 1
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(self.models[ref.version])
        (folder / "MLmodel").write_text("flavors:\n  onnx:\n    data: model.onnx\n")
        return Downloaded(folder, "sha256:logged", 1)

    def aliases(self, name: str) -> dict[str, int]:
        self._answer()
        return {"champion": self.champion[0]} if self.champion else {}

    def _answer(self) -> None:
        if self.down:
            raise Retryable("MLflow does not answer", remedy="start it")


SPEC: dict[str, Any] = {
    "model": "credit_risk",
    "source": {"flavor": "onnx"},
    "data": {
        "evaluation": "${SLIPWAY_HOME}/data/credit_risk/evaluation.parquet",
        "calibration": "${SLIPWAY_HOME}/data/credit_risk/calibration.parquet",
        "label": "bad",
        "slices": ["Home", "Job"],
        "min_rows": 100,
    },
    "precisions": ["int8", "fp16", "fp32"],
    "targets": ["onnxruntime"],
    "prefer": "order",
    "gates": {"accuracy": {"max_drop": 0.01}, "auc": {"max_drop": 0.01}, "slices": {"max_drop": 0.1}},
    "rollout": {"steps": [{"weight": 100, "hold_seconds": 1}]},
}


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Great Expectations has tests of its own and takes seconds; latency is measured briefly."""
    whole = profile.measure
    monkeypatch.setattr("model_store.gates.expectations.validate_checks", lambda reports, docs: None)
    monkeypatch.setattr(
        "model_store.stages.candidate.measure", lambda *a, **k: whole(*a, **{**k, "budget_seconds": 0.05})
    )


def a_world(store: Store, credit: Credit) -> BuildContext:
    """The credit model, registered as version 2 and about to be released for the first time."""
    return BuildContext(store, Registry({2: credit.onnx}), ReleaseSpec.model_validate(SPEC), REF, credit.home)


def with_engines(ctx: BuildContext) -> BuildContext:
    """The same, compiled for TensorRT-RTX as well (a second or two per variant)."""
    return with_spec(ctx, targets=["onnxruntime", "tensorrt_rtx"])


def with_spec(ctx: BuildContext, **changes: Any) -> BuildContext:
    return replace(ctx, spec=ReleaseSpec.model_validate({**SPEC, **changes}))


def gated(ctx: BuildContext) -> list[Gated]:
    exported = build.export_stage(ctx)
    return [build._gated(ctx, exported, variant) for variant in variants(ctx.spec)]


def built(ctx: BuildContext) -> Bundle:
    """All stages but the check of the data."""
    exported, reports = build.export_stage(ctx), gated(ctx)
    published = build.publish_stage(ctx, exported, reports, build.choose_stage(ctx, reports))
    return load_bundle(ctx.store.bundle_path(published["bundle"]))


def failed(gated: Gated) -> list[str]:
    return [check["name"] for check in gated["report"]["checks"] if not check["passed"]]


def edited(credit: Credit, edit: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_model_from_string(credit.onnx)
    edit(model)
    return model.SerializeToString()
