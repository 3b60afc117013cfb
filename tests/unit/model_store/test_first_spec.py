"""First specs for models and rows that other people made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.models import infer_signature
from sklearn.base import BaseEstimator
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression

from model_store.errors import Permanent
from model_store.first_spec import FirstSpec, first_spec
from model_store.release_spec import load


def logged(folder: Path, model: BaseEstimator, features: pd.DataFrame, labels: Any) -> Path:
    signature = infer_signature(features, model.fit(features, labels).predict(features))
    mlflow.sklearn.save_model(model, str(folder), signature=signature, pip_requirements=[])
    return folder


def a_spec(tmp_path: Path, model: BaseEstimator, bunch: Any, label: Any = None, **more: Any) -> FirstSpec:
    features = bunch.data.iloc[:, :4]
    rows = features.assign(answer=bunch.target if label is None else label, **more)
    rows.to_parquet(tmp_path / "rows.parquet")
    folder = logged(tmp_path / "m", model, features, rows.answer)
    return first_spec("m", folder, tmp_path / "rows.parquet", label="answer" if more else None)


def read(spec: FirstSpec) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(spec.text)
    return found


def test_zero_and_one_are_a_binary_task_whose_positive_class_is_one(tmp_path: Path) -> None:
    spec = a_spec(tmp_path, LogisticRegression(max_iter=5000), load_breast_cancer(as_frame=True))
    assert (read(spec)["task"], read(spec)["data"]["label"], read(spec)["data"]["positive"]) == (
        "binary",
        "answer",
        1,
    )
    (tmp_path / "spec.yaml").write_text(spec.text)
    with pytest.raises(Permanent, match="allow"):
        load(tmp_path / "spec.yaml")
    # The answer stands beside the question: exactly the formats that this model has.
    (tmp_path / "spec.yaml").write_text(spec.text.replace("allow:                # ", "allow: "))
    found = load(tmp_path / "spec.yaml")
    assert (found.model, found.source.flavor, len(found.source.allow)) == ("m", None, 2)
    assert found.source.allow[1] == "pyfunc"


def test_which_of_two_words_is_positive_is_asked_and_the_spec_is_not_valid_before(tmp_path: Path) -> None:
    bunch = load_breast_cancer(as_frame=True)
    words = np.where(bunch.target == 1, "benign", "malignant")
    spec = a_spec(tmp_path, LogisticRegression(max_iter=5000), bunch, words)
    assert any("'benign' or 'malignant'" in ask for ask in spec.asks)
    (tmp_path / "spec.yaml").write_text(spec.text)
    with pytest.raises(Permanent, match="positive"):
        load(tmp_path / "spec.yaml")


def test_numbers_with_fractions_are_a_regression(tmp_path: Path) -> None:
    bunch = load_diabetes(as_frame=True)
    spec = a_spec(tmp_path, LinearRegression(), bunch, bunch.target + 0.5)
    assert read(spec)["task"] == "regression"


@pytest.mark.parametrize("name", ["diabetes", "iris"])
def test_whole_numbers_may_be_classes_or_amounts_and_are_asked_about(tmp_path: Path, name: str) -> None:
    bunch = {"diabetes": load_diabetes, "iris": load_iris}[name](as_frame=True)
    spec = a_spec(tmp_path, LinearRegression(), bunch)
    assert read(spec)["task"] is None
    assert any(ask.startswith("task:") and "regression" in ask for ask in spec.asks)


def test_names_that_yaml_reads_as_something_else_are_quoted(tmp_path: Path) -> None:
    bunch = load_iris(as_frame=True)
    names = bunch.target_names[bunch.target]
    region = np.where(np.arange(150) % 2, "a", "b")
    spec = a_spec(
        tmp_path, LogisticRegression(max_iter=5000), bunch, names, no=region, id=np.arange(150).astype(str)
    )
    assert read(spec)["task"] == "multiclass"
    assert (read(spec)["data"]["slices"], read(spec)["data"]["ignore"]) == (["no"], ["id"])


def test_equal_rows_are_divided_together(tmp_path: Path) -> None:
    bunch = load_iris(as_frame=True)
    a_spec(tmp_path, LogisticRegression(max_iter=5000), bunch)
    features = list(bunch.data.columns)[:4]
    judged, tuned = (
        pd.read_parquet(tmp_path / f"rows.{role}.parquet") for role in ("evaluation", "calibration")
    )
    assert len(judged) + len(tuned) == 150
    assert len(tuned) > 0
    assert not set(map(tuple, judged[features].to_numpy())) & set(map(tuple, tuned[features].to_numpy()))


def test_two_columns_that_could_be_the_answer_are_asked_about(tmp_path: Path) -> None:
    bunch = load_iris(as_frame=True)
    bunch.data.assign(a=bunch.target, b=bunch.target).to_parquet(tmp_path / "rows.parquet")
    model = logged(tmp_path / "m", LogisticRegression(max_iter=5000), bunch.data, bunch.target)
    with pytest.raises(Permanent, match="not certain") as asked:
        first_spec("m", model, tmp_path / "rows.parquet")
    assert asked.value.remedy == "--label, one of: a, b"


def test_a_column_that_the_model_takes_and_the_rows_lack_is_named(tmp_path: Path) -> None:
    bunch = load_iris(as_frame=True)
    bunch.data.iloc[:, 1:].assign(y=bunch.target).to_parquet(tmp_path / "rows.parquet")
    model = logged(tmp_path / "m", LogisticRegression(max_iter=5000), bunch.data, bunch.target)
    with pytest.raises(Permanent, match="takes sepal length"):
        first_spec("m", model, tmp_path / "rows.parquet")


def test_a_column_of_the_model_that_has_no_name_is_the_one_that_is_left(tmp_path: Path) -> None:
    """As pipelines of transformers are logged."""
    rows = pd.DataFrame({"text": [f"row {n}" for n in range(100)], "label": ["yes", "no"] * 50})
    rows.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "m").mkdir()
    inputs = '[{"type": "string", "required": true}]'
    flavors = {"python_function": {}, "transformers": {"task": "text-classification"}}
    written = {"flavors": flavors, "signature": {"inputs": inputs}}
    (tmp_path / "m" / "MLmodel").write_text(yaml.safe_dump(written))
    assert read(first_spec("m", tmp_path / "m", tmp_path / "rows.parquet", label="label"))["task"] == "binary"
