"""Models that are served as they are (`flavor: pyfunc`): MLflow's examples, and what ONNX cannot take."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.pyfunc_models import CODE, LEAN, saved_pyfunc
from tests.zoo.classifiers import NO_AUC, NUMBERS, forest, parts, scored
from tests.zoo.world import ROWS, Kind, Made

AS_LOGGED: dict[str, Any] = {"targets": ["python"], "precisions": ["original"]}
WITH_SKLEARN = [*LEAN, "scikit-learn==1.9.1"]


def made(model: Path, frames: tuple[pd.DataFrame, pd.DataFrame], label: str, **more: Any) -> Made:
    spec = {**AS_LOGGED, "source": {"trusted": True}, **more.pop("spec", {})}
    return Made(model, "pyfunc", frames[0], frames[1], label, spec=spec, **more)


def add_n(folder: Path) -> Made:
    """A regression, by the name of its one column."""
    from sklearn.metrics import mean_absolute_error

    frames = [pd.DataFrame({"x": np.random.default_rng(seed).normal(size=ROWS)}) for seed in (1, 2)]
    evaluation, calibration = [
        frame.assign(y=frame.x + 5 + np.random.default_rng(3).normal(size=ROWS) / 5) for frame in frames
    ]
    saved = saved_pyfunc(folder / "model", "add_n", frames[0], frames[0] + 5)
    numbers = {"mae": mean_absolute_error(evaluation.y, evaluation.x + 5)}
    spec = {"task": "regression", "gates": {"mae": {"max_increase": 0.2}}}
    return made(saved, (evaluation, calibration), "y", numbers=numbers, spec=spec)


def people(count: int, seed: int) -> pd.DataFrame:
    """Text with gaps, times, truth and a number that may be missing."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "city": rng.choice(["Ulm", "Bonn", "Köln"], count),
            "born": pd.Timestamp("1980-01-01") + pd.to_timedelta(rng.integers(0, 14_000, count), "D"),
            "is_member": rng.random(count) < 0.5,
            "debt": rng.normal(size=count),
        }
    )
    frame["city"] = frame.city.where(rng.random(count) > 0.1, None)
    frame["debt"] = frame.debt.where(rng.random(count) > 0.1)
    frame["born"] = frame.born.astype("datetime64[ns]")
    return frame


def house_rules() -> Any:
    """The team's own module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("house_rules", CODE / "code" / "house_rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_the_rules(folder: Path, *, nullable: bool = True, is_signed: bool = True) -> Made:
    """Code paths; text, times, truth and gaps go in, a table of text and numbers comes out. Unsigned, all of
    that stands in the evaluation rows alone.
    """
    import sys

    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from sklearn.metrics import accuracy_score, roc_auc_score

    decided = house_rules().decided
    frames = []
    for seed in (1, 2):
        frame = people(ROWS, seed)
        said = decided(frame)
        flip = np.random.default_rng(seed).random(ROWS) < 0.1
        frames.append(frame.assign(approved=np.where(flip, "no", said.approved)))
    inputs = [
        ColSpec("string", "city", required=False),
        ColSpec("datetime", "born"),
        ColSpec("boolean", "is_member"),
        ColSpec("double", "debt", required=False),
    ]
    outputs = [ColSpec("string", "approved"), ColSpec("double", "score")]
    code = CODE / "code"
    sys.path.append(str(code))  # MLflow runs the file once when it is logged.
    try:
        saved = saved_pyfunc(
            folder / "model", "with_code_paths", None, None,
            signature=ModelSignature(Schema(inputs), Schema(outputs)) if is_signed else None,
            code_paths=[str(code / "house_rules.py")],
        )  # fmt: skip
    finally:
        sys.path.remove(str(code))
        sys.modules.pop("house_rules", None)
    said = decided(frames[0])
    right = frames[0].approved
    numbers = {
        "accuracy": float(accuracy_score(right, said.approved)),
        "auc": float(roc_auc_score(right == "yes", said.score)),
    }
    gaps = {"city": {"nullable": True}, "debt": {"nullable": True}} if nullable else {}
    spec = {
        "task": "binary",
        "outputs": {"label": "approved", "scores": "score"},
        "classes": ["no", "yes"],
        "data": {"positive": "yes", "columns": gaps},
        "serving": {"finite_inputs": False},
        "gates": {"accuracy": {"max_drop": 0.02}, "auc": {"max_drop": 0.02}},
    }
    return made(saved, (frames[0], frames[1]), "approved", numbers=numbers, spec=spec)


def as_pyfunc(folder: Path, *, build: Callable[[], Any] = forest, **saving: Any) -> Made:
    """What scikit-learn's flavour exports, served as it is."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    train, evaluation, calibration = parts()
    model = build().fit(train[NUMBERS], train.y)
    known = {"signature": infer_signature(train[NUMBERS], model.predict(train[NUMBERS])), **saving}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.sklearn.save_model(
            model, str(folder / "model"), serialization_format="cloudpickle",
            **{"pip_requirements": WITH_SKLEARN, **known},
        )  # fmt: skip
    numbers = scored(model, evaluation, "y", NUMBERS)
    numbers.pop("auc", None)
    return made(folder / "model", (evaluation, calibration), "y", numbers=numbers, spec={"gates": NO_AUC})


def unresolvable(folder: Path) -> Made:
    kind = as_pyfunc(folder)
    with (kind.model / "requirements.txt").open("a") as file:
        file.write("\nnumpy==99.0\n")
    return kind


def untrusted(folder: Path) -> Made:
    kind = add_n(folder)
    return Made(
        kind.model, "pyfunc", kind.evaluation, kind.calibration, "y", {},
        {**kind.spec, "source": {"trusted": False}},
    )  # fmt: skip


def of_another_python(folder: Path) -> Made:
    kind = add_n(folder)
    for name in ("python_env.yaml", "conda.yaml"):
        path = kind.model / name
        text = path.read_text()
        path.write_text(text.replace("python: 3.", "python: 2.").replace("python=3.", "python=2."))
    return kind


def by_its_company(folder: Path) -> Made:
    """Answers by how a row compares with the others of its batch."""
    kind = add_n(folder)
    saved = saved_pyfunc(folder / "ranks", "by_its_company", kind.evaluation[["x"]], kind.evaluation.x)
    return Made(saved, "pyfunc", kind.evaluation, kind.calibration, "y", {}, kind.spec)


KINDS = [
    Kind("MLflow's AddN", add_n, "published"),
    Kind("code paths, text, times, truth and gaps", by_the_rules, "published"),
    Kind(
        "missing text that nobody allowed",
        lambda f: by_the_rules(f, nullable=False),
        "refused",
        "column `city` has .* missing values[^$]*data.columns.city.nullable: true",
    ),
    Kind("a forest as it is", as_pyfunc, "published"),
    Kind(
        "a pyfunc that nobody trusts",
        untrusted,
        "refused",
        r"nothing was loaded[^$]*source.allow: \[pyfunc\]",
    ),
    Kind("text, times, truth and gaps unsigned", lambda f: by_the_rules(f, is_signed=False), "published"),
    Kind("a pyfunc without a signature", lambda f: as_pyfunc(f, signature=None), "published"),
    Kind(
        "requirements that no index has",
        unresolvable,
        "refused",
        "requirements cannot be resolved for Python 3.*numpy==99.0",
    ),
    Kind(
        "a library that its requirements forget",
        lambda f: as_pyfunc(f, pip_requirements=LEAN),
        "refused",
        "cannot be loaded in its own environment: ModuleNotFoundError: No module named 'sklearn'",
    ),
    Kind("a Python that is not here", of_another_python, "refused", "Python 2.* there is none[^$]*uv python"),
    Kind("answers by the company", by_its_company, "refused", "rows are answered otherwise"),
]
