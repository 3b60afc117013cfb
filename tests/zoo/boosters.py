"""Boosters as their own documentation and MLflow's examples have them, trained where their libraries are."""

from __future__ import annotations

import json
import subprocess
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from model_store.engines.python.environment import interpreter, run_uv
from tests.pyfunc_models import CODE, LEAN
from tests.zoo.world import Kind, Made

LIBRARIES = {"xgb": "xgboost==3.2.0", "lgbm": "lightgbm==4.7.0", "cat": "catboost==1.2.10"}
FLAVORS = {"xgb": "xgboost", "lgbm": "lightgbm", "cat": "catboost"}
BINARY: dict[str, Any] = {"accuracy": {"max_drop": 0.03}, "auc": {"max_drop": 0.05}}
# The breast cancers: few rows, and 0 is malignant.
TWO: dict[str, Any] = {"gates": BINARY, "task": "binary"}
DIABETES: dict[str, Any] = {"gates": {"mae": {"max_increase": 0.2}}, "task": "regression"}


@cache
def python_with(library: str, folder: Path) -> Path:
    """Where the models are trained: the same libraries as they are logged with, and what saves tables."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [*LEAN, library, f"scikit-learn=={version('scikit-learn')}", "pyarrow"]
    (folder / "train.in").write_text("\n".join(wanted))
    run_uv(
        ["pip", "compile", "-q", "--generate-hashes", "--no-header", "train.in", "-o", "train.lock"],
        cwd=folder,
    )
    return interpreter(folder / "train.lock", "3.11", beside=folder)


def booster(folder: Path, which: str, spec: dict[str, Any], *, flavor: str = "") -> Made:
    """One of `models_from_code/save_boosters.py`."""
    folder.mkdir(parents=True)
    library = which.partition("_")[0]
    requirements = folder / "requirements.json"
    logged_with = [*LEAN, LIBRARIES[library], f"scikit-learn=={version('scikit-learn')}"]
    requirements.write_text(json.dumps(logged_with))
    python = python_with(LIBRARIES[library], folder / "training")
    command = [python, CODE / "save_boosters.py", which, folder, requirements]
    subprocess.run(command, check=True, capture_output=True)
    evaluation, calibration = (
        pd.read_parquet(folder / f"{role}.parquet") for role in ("evaluation", "calibration")
    )
    numbers = json.loads((folder / "numbers.json").read_text())
    known = {"source": {"trusted": True}, "precisions": ["fp32"], **spec}
    return Made(
        folder / "model", flavor or FLAVORS[library], evaluation, calibration, "right", numbers, known
    )


def kind(
    name: str, which: str, spec: dict[str, Any], ending: Any = "published", says: str = "", **more: Any
) -> Kind:
    return Kind(name, partial(booster, which=which, spec=spec, **more), ending, says)


AS_IT_IS = {"precisions": ["original"], "targets": ["python"]}
RANKING = {"task": "ranking", "gates": {"ndcg_10": {"max_drop": 0.3}}, "data": {"group": "group"}}

KINDS = [
    kind("XGBClassifier", "xgb_classifier", TWO),
    kind(
        "a Booster of ten classes",
        "xgb_native",
        {"gates": {"accuracy": {"max_drop": 0.02}, "auc": {"max_drop": 0.05}}},
    ),
    kind("XGBRegressor", "xgb_regressor", DIABETES),
    kind(
        "XGBRanker",
        "xgb_ranker",
        RANKING,
        "refused",
        "onnxmltools cannot convert[^$]*flavor: pyfunc serves it",
    ),
    kind("XGBRegressor as it is", "xgb_regressor", {**DIABETES, **AS_IT_IS}, flavor="pyfunc"),
    kind("LGBMClassifier of words", "lgbm_classifier", {**TWO, "data": {"positive": "malignant"}}),
    kind("a lightgbm Booster of two classes", "lgbm_native", TWO),
    kind("CatBoostClassifier", "cat_classifier", TWO),
    kind("CatBoostRegressor", "cat_regressor", DIABETES),
]
