"""MLflow models that are served as they are, and bundles of them without the gates."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from model_store.bundle.publishing import BundleContents, publish
from model_store.export import export
from model_store.export.as_logged import export_as_logged
from model_store.release_spec import ReleaseSpec
from model_store.storage.store import Store
from model_store.types import Check, GateReport, ModelRef, Toolchain

CODE = Path(__file__).with_name("models_from_code")
# What loading a pyfunc takes, and no more: one environment for all tests, made in seconds.
LEAN = [f"{name}=={version(name)}" for name in ("mlflow-skinny", "pandas", "numpy", "cloudpickle")]


def saved_pyfunc(folder: Path, code: str, example: Any, answer: Any, **settings: Any) -> Path:
    """As `mlflow.pyfunc.save_model` writes a model from `models_from_code`."""
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    known = {"pip_requirements": LEAN, **settings}
    if is_hinted := known.get("signature", 0) is None:
        # MLflow finds it in the type hints.
        del known["signature"]
    with warnings.catch_warnings():
        # It would rather have an input example and type hints, and no whole numbers.
        warnings.simplefilter("ignore", UserWarning)
        if "signature" not in known and not is_hinted:
            known["signature"] = infer_signature(example, answer)
        mlflow.pyfunc.save_model(str(folder), python_model=str(CODE / f"{code}.py"), **known)
    return folder


def spec_of(home: Path, rows: pd.DataFrame, **more: Any) -> ReleaseSpec:
    """To serve a pyfunc called `odd`, with `rows` as its data, labelled 0 and 1 in turn."""
    paths = {}
    for role in ("evaluation", "calibration"):
        paths[role] = str(home / f"{role}.parquet")
        rows.assign(is_right=[place % 2 for place in range(len(rows))]).to_parquet(paths[role], index=False)
    plain = {
        "model": "odd",
        "source": {"flavor": "pyfunc", "trusted": True},
        "data": {**paths, "label": "is_right"},
        "rollout": {"steps": [{"weight": 100, "hold_seconds": 0}]},
    }
    return ReleaseSpec.model_validate({**plain, **more})


def bundle_of(home: Path, saved: Path, rows: pd.DataFrame, *, name: str = "odd", **serving: Any) -> Path:
    """The published bundle of a saved model; no gate has judged it. `flavor`: if not as it was logged."""
    home.mkdir(parents=True, exist_ok=True)
    data, source = serving.pop("data", {}), {"flavor": serving.pop("flavor", "pyfunc"), "trusted": True}
    spec = spec_of(home, rows, serving=serving, model=name, source=source)
    if data:
        data = {**spec.data.model_dump(), **data}
        spec = spec_of(home, rows, serving=serving, model=name, source=source, data=data)
    store, out = Store(home / "store"), home / "out"
    make = export_as_logged if spec.is_served_as_logged else export
    exported = make(ModelRef(name, 1), spec, saved, out, evaluation=Path(spec.data.evaluation))
    served = store.put(
        exported.path.read_bytes(),
        format=exported.format,
        precision="original" if exported.format == "mlflow" else "fp32",
        parent_digest=None,
        toolchain=exported.toolchain if exported.format == "mlflow" else Toolchain("onnxruntime", "any"),
    )
    report = GateReport("sha256:none", (Check("taken", 0.0, 0.0, passed=True),))
    warmup: Mapping[str, np.ndarray[Any, Any]] = _warmup(exported, spec)
    contents = BundleContents(
        ModelRef(name, 1), served, exported.inputs, exported.outputs,
        spec.serving.model_dump(mode="json"), {}, warmup, report, invocations=exported.invocations,
    )  # fmt: skip
    return publish(store, contents).path


def _warmup(exported: Any, spec: ReleaseSpec) -> dict[str, np.ndarray[Any, Any]]:
    from model_store.dataset import read_dataset

    path = Path(spec.data.evaluation)
    as_logged = spec.is_served_as_logged
    return read_dataset(
        path, spec.data, exported.inputs, columns=exported.columns, as_logged=as_logged
    ).inputs
