"""Bundles as platforms and controllers are given them: signed, with a model that pods can serve at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model_store.bundle.publishing import BundleContents, publish
from model_store.installation import ROOT
from model_store.release_spec import load
from model_store.storage.store import Store
from model_store.types import Bundle, Check, GateReport, ModelRef, TensorSpec, Toolchain
from tests.bundles import make_bundle, mlp


def servable_bundle(parent: Path, service: str, version: int = 1, *, keys: Path, **serving: Any) -> Bundle:
    """A bundle with warm rows as a platform is given it. `serving`: the spec's section."""
    path = make_bundle(
        parent,
        mlp(seed=version),
        name=service,
        version=version,
        serving=serving,
        warmup={"input": np.ones((3, 4), np.float32)},
        keys=keys,
    )
    return Bundle(path.name, ModelRef(service, version), (), GateReport("", ()), path)


def publish_mlp(store: Store, model: ModelRef, serving: Mapping[str, Any]) -> Bundle:
    """A small model published as a build does it, with `serving` over what the demo's spec says."""
    served = store.put(
        mlp(seed=model.version).SerializeToString(),
        format="onnx",
        precision="fp32",
        parent_digest=None,
        toolchain=Toolchain("onnxruntime", "1"),
    )
    spec = load(ROOT / "dags" / "releases" / "credit_risk.yaml")
    return publish(
        store,
        BundleContents(
            model=model,
            served=served,
            inputs=(TensorSpec("input", "FP32", (-1, 4)),),
            outputs=(TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))),
            serving=spec.serving.model_dump(mode="json") | dict(serving),
            session_config={},
            warmup={"input": np.zeros((1, 4), "f")},
            report=GateReport("sha256:0", (Check("accuracy", 0.0, -0.01, passed=True),)),
        ),
    )
