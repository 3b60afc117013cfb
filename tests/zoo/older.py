"""Models that another scikit-learn trained and saved: converted by the libraries they were logged with."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from model_store.engines.python.environment import interpreter, run_uv
from tests.pyfunc_models import CODE
from tests.zoo.boosters import DIABETES
from tests.zoo.world import Kind, Made

# By scikit-learn: what was current with it.
BESIDE = {
    "1.3.2": [
        "mlflow-skinny==2.9.2",
        "numpy==1.26.4",
        "pandas==2.1.4",
        "cloudpickle==3.0.0",
        "setuptools<80",
    ],
    "1.6.1": ["mlflow-skinny==2.20.4", "numpy==2.1.3", "pandas==2.2.3", "cloudpickle==3.1.1"],
}


def older(folder: Path, which: str, version: str, spec: dict[str, Any]) -> Made:
    """One of `models_from_code/save_sklearn.py`."""
    folder.mkdir(parents=True)
    requirements = [f"scikit-learn=={version}", *BESIDE[version]]
    (folder / "requirements.json").write_text(json.dumps(requirements))
    (folder / "train.in").write_text("\n".join([*requirements, "pyarrow==17.0.0"]))
    arguments = ["--generate-hashes", "--no-header", "--python", "3.11", "train.in", "-o", "train.lock"]
    run_uv(["pip", "compile", "-q", *arguments], cwd=folder)
    python = interpreter(folder / "train.lock", "3.11", beside=folder)
    command = [python, CODE / "save_sklearn.py", which, folder, folder / "requirements.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [pd.read_parquet(folder / f"{role}.parquet") for role in ("evaluation", "calibration")]
    numbers = json.loads((folder / "numbers.json").read_text())
    known = {"source": {"trusted": True}, "precisions": ["fp32"], **spec}
    return Made(folder / "model", "sklearn", rows[0], rows[1], "right", numbers, known)


KINDS = [
    Kind(
        "a pipeline by scikit-learn 1.3",
        partial(older, which="churn", version="1.3.2", spec={"gates": {"auc": {"max_drop": 0.05}}}),
        "published",
    ),
    Kind(
        "a forest by scikit-learn 1.6",
        partial(older, which="diabetes", version="1.6.1", spec=DIABETES),
        "published",
    ),
]
