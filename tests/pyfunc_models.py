"""MLflow models that are served as they are, and bundles of them without the gates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from model_store.bundle.publishing import Contents, publish
from model_store.export.as_logged import export_as_logged
from model_store.release_spec import ReleaseSpec
from model_store.storage.store import Store
from model_store.types import Check, GateReport, ModelRef

CODE = Path(__file__).with_name("models_from_code")
# What loading a pyfunc takes, and no more: one environment for all tests, made in seconds.
LEAN = [f"{name}=={version(name)}" for name in ("mlflow-skinny", "pandas", "numpy", "cloudpickle")]


def saved_pyfunc(folder: Path, code: str, example: Any, answer: Any, **settings: Any) -> Path:
    """As `mlflow.pyfunc.save_model` writes a model from `models_from_code`."""
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    known = {"pip_requirements": LEAN, **settings}
    if known.get("signature", 0) is None:
        # MLflow finds it in the type hints.
        del known["signature"]
    elif "signature" not in known:
        known["signature"] = infer_signature(example, answer)
    with warnings.catch_warnings():
        # It would rather have an input example and type hints.
        warnings.simplefilter("ignore", UserWarning)
        mlflow.pyfunc.save_model(str(folder), python_model=str(CODE / f"{code}.py"), **known)
    return folder


def spec_of(home: Path, rows: pd.DataFrame, **more: Any) -> ReleaseSpec:
    """To serve a pyfunc called `odd`, with `rows` as its data, all labelled 0."""
    paths = {}
    for role in ("evaluation", "calibration"):
        paths[role] = str(home / f"{role}.parquet")
        rows.assign(is_right=0).to_parquet(paths[role], index=False)
    plain = {
        "model": "odd",
        "source": {"flavor": "pyfunc", "trusted": True},
        "data": {**paths, "label": "is_right"},
        "rollout": {"steps": [{"weight": 100, "hold_seconds": 0}]},
    }
    return ReleaseSpec.model_validate({**plain, **more})


def bundle_of(home: Path, saved: Path, rows: pd.DataFrame, *, name: str = "odd", **serving: Any) -> Path:
    """The published bundle of a saved model; no gate has judged it."""
    home.mkdir(parents=True, exist_ok=True)
    data = serving.pop("data", {})
    spec = spec_of(home, rows, serving=serving, model=name)
    if data:
        spec = spec_of(home, rows, serving=serving, model=name, data={**spec.data.model_dump(), **data})
    store, out = Store(home / "store"), home / "out"
    exported = export_as_logged(ModelRef(name, 1), spec, saved, out, evaluation=Path(spec.data.evaluation))
    served = store.put(
        exported.path.read_bytes(),
        format=exported.format,
        precision="original",
        parent_digest=None,
        toolchain=exported.toolchain,
    )
    report = GateReport("sha256:none", (Check("taken", 0.0, 0.0, passed=True),))
    warmup: Mapping[str, np.ndarray[Any, Any]] = _warmup(exported, spec)
    contents = Contents(
        ModelRef(name, 1), served, exported.inputs, exported.outputs,
        spec.serving.model_dump(mode="json"), {}, warmup, report,
    )  # fmt: skip
    return publish(store, contents).path


def _warmup(exported: Any, spec: ReleaseSpec) -> dict[str, np.ndarray[Any, Any]]:
    from model_store.dataset import read_dataset

    path = Path(spec.data.evaluation)
    return read_dataset(path, spec.data, exported.inputs, columns=exported.columns, as_logged=True).inputs
