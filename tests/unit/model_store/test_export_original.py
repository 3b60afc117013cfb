"""The original is the logged estimator, asked by scikit-learn with rows as the signature types them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from model_store.errors import Permanent
from model_store.export import ExportedModel, export
from model_store.export.pairing import pair
from model_store.export.versions import differing, other_versions, recorded_versions
from model_store.inference import answer, open_session
from model_store.release_spec import ReleaseSpec
from model_store.types import ModelRef, TensorSpec

Export = Callable[..., ExportedModel]
COLUMNS = ["at", "amount"]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """400 seconds of half an hour, in any order: float32 holds such a time to 128 seconds."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame({"at": 1_700_000_000 + rng.permutation(2000)[:400], "amount": rng.normal(size=400)})
    table["late"] = (table["at"] > 1_700_001_000).astype(int)
    table["large"] = (table.amount > 0).astype(int)
    return table


@pytest.fixture
def run(tmp_path: Path, rows: pd.DataFrame) -> Export:
    """Log an estimator as MLflow does, and export it."""

    def run(
        model: Any, *, columns: list[str] = COLUMNS, edit: Callable[[Path], None] = lambda _: None
    ) -> Any:
        import mlflow.sklearn
        from mlflow.models import infer_signature

        folder, data = tmp_path / "logged", tmp_path / "rows.parquet"
        with warnings.catch_warnings():
            # That whole numbers cannot be missing.
            warnings.simplefilter("ignore", UserWarning)
            signature = infer_signature(rows[columns], model.predict(rows[columns]))
        mlflow.sklearn.save_model(
            model, str(folder), signature=signature, pip_requirements=[], serialization_format="cloudpickle"
        )
        edit(folder)
        rows.to_parquet(data)
        ignored = [name for name in rows.columns if name not in (*columns, "late")]
        spec = ReleaseSpec.model_validate(
            {
                "model": "m",
                "source": {"flavor": "sklearn", "trusted": True},
                "data": {
                    "evaluation": "e.csv", "calibration": "c.csv", "label": "late", "ignore": ignored
                },
                "rollout": {"steps": [{"weight": 100, "hold_seconds": 1}]},
            }
        )  # fmt: skip
        return export(ModelRef("m", 1), spec, folder, tmp_path / "out", evaluation=data)

    return run


def test_a_tree_on_seconds_is_asked_in_full_and_exported_with_float64(
    run: Export, rows: pd.DataFrame
) -> None:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    model = make_pipeline(StandardScaler(), DecisionTreeClassifier(random_state=0))
    model.fit(rows[COLUMNS], rows.late)
    rounded = rows[COLUMNS].astype(np.float32).astype(np.float64)
    assert model.score(rows[COLUMNS], rows.late) == 1 > model.score(rounded, rows.late)

    exported = run(model)

    assert exported.inputs == (TensorSpec("input", "FP64", (-1, 2)),)
    assert np.mean(exported.original_answers()["label"] == rows.late) == 1
    served = answer(open_session(exported.path), {"input": rows[COLUMNS].to_numpy(np.float64)})
    assert np.mean(served["label"] == rows.late) == 1


def test_a_model_that_float64_does_not_save_is_refused_with_what_rounding_changes(
    run: Export, rows: pd.DataFrame
) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(max_iter=20, min_samples_leaf=2, random_state=0)
    # Every other hundred seconds: onnx keeps a tree's thresholds in float32, whatever its input is.
    model.fit(rows[COLUMNS], rows["at"] // 100 % 2)
    rounded = rows[COLUMNS].astype(np.float32).astype(np.float64)
    changed = int((model.predict(rounded) != model.predict(rows[COLUMNS])).sum())
    with pytest.raises(Permanent) as refused:
        run(model)

    assert changed > 0
    assert f"answers {changed} rows otherwise when its numbers are rounded" in refused.value.problem
    assert "With FP32 inputs: " in refused.value.problem
    assert "`at` differs between rows by" in refused.value.problem
    assert "With FP64 inputs: the ONNX model answers" in refused.value.problem


def test_histogram_boosting_is_converted_and_says_what_scikit_learn_says(
    run: Export, rows: pd.DataFrame
) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    features = rows[["amount"]]
    model = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(features, rows.large)
    exported = run(model, columns=["amount"])

    served = answer(open_session(exported.path), {"input": features.to_numpy(np.float32)})
    np.testing.assert_allclose(served["probabilities"], model.predict_proba(features), atol=1e-6)
    assert exported.says["classes"] == [0, 1]


def test_scores_that_agree_with_nothing_the_original_says_are_not_served() -> None:
    """As an SVC's decision function with its sign turned, which skl2onnx calls probabilities."""
    decided, surely = np.array([0, 1, 1]), np.array([-1.5, 0.5, 2.0])
    turned = {"label": decided, "probabilities": np.stack([surely, -surely], axis=1)}

    paired = pair(turned, {"predict": decided, "decision_function": surely}, tolerance=1e-4)

    assert paired.methods == {"label": "predict"}
    assert paired.uncompared == ("probabilities",)


def test_a_support_vectors_decision_function_is_served_with_its_own_sign(
    run: Export, rows: pd.DataFrame
) -> None:
    from sklearn.svm import SVC

    model = SVC().fit(rows[["amount"]], rows.large)
    exported = run(model, columns=["amount"])

    assert exported.says["outputs"] == {"label": "label", "probabilities": "decision_function"}
    assert exported.says["probabilities"] == {"probabilities": False}
    scores = exported.original_answers()["probabilities"]
    np.testing.assert_array_equal(scores[:, 1], model.decision_function(rows[["amount"]]))


def test_a_decision_function_is_told_from_probabilities(run: Export, rows: pd.DataFrame) -> None:
    from sklearn.svm import LinearSVC

    model = LinearSVC().fit(rows[["amount"]], np.where(rows.large, "yes", "no"))
    exported = run(model, columns=["amount"])

    assert exported.says["outputs"]["probabilities"] == "decision_function"
    assert exported.says["probabilities"] == {"probabilities": False}
    assert exported.says["classes"] == ["no", "yes"]
    scores = exported.original_answers()["probabilities"]
    np.testing.assert_array_equal(scores.ravel(), model.decision_function(rows[["amount"]]))


def test_a_pipeline_that_asks_for_columns_by_name_takes_them_in_one_input(
    run: Export, rows: pd.DataFrame
) -> None:
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler, StandardScaler

    columns = ["amount", "large"]
    prepared = make_column_transformer((StandardScaler(), ["large"]), (MinMaxScaler(), ["amount"]))
    model = make_pipeline(prepared, LogisticRegression()).fit(rows[columns], rows.late)
    exported = run(model, columns=columns)

    assert exported.inputs == (TensorSpec("input", "FP32", (-1, 2)),)
    assert exported.columns == {"input": ("amount", "large")}
    served = answer(open_session(exported.path), {"input": rows[columns].to_numpy(np.float32)})
    np.testing.assert_allclose(served["probabilities"], model.predict_proba(rows[columns]), atol=1e-6)


def test_several_labels_are_answered_row_by_row(run: Export, rows: pd.DataFrame) -> None:
    from sklearn.ensemble import RandomForestClassifier

    labels = np.stack([rows.large, rows.amount > 1], axis=1).astype(int)
    model = RandomForestClassifier(4, random_state=0).fit(rows[["amount"]], labels)
    exported = run(model, columns=["amount"])

    assert exported.says["multilabel"]
    assert [output.shape for output in exported.outputs] == [(-1, 2), (-1, 2)]
    served = answer(open_session(exported.path), {"input": rows[["amount"]].to_numpy(np.float32)})
    for label, probable in enumerate(model.predict_proba(rows[["amount"]])):
        np.testing.assert_allclose(served["probabilities"][:, label], probable[:, 1], atol=1e-6)


def test_an_estimator_of_another_minor_version_is_refused_by_both(run: Export, rows: pd.DataFrame) -> None:
    import sklearn
    from sklearn.linear_model import LogisticRegression

    def age(folder: Path) -> None:
        state = model.__getstate__() | {"_sklearn_version": "1.2.1"}
        model.__class__ = Aged
        model.state = state
        (folder / "model.pkl").write_bytes(pickle.dumps(model))

    model = LogisticRegression().fit(rows[["amount"]], rows.large)
    with pytest.raises(Permanent) as refused:
        run(model, columns=["amount"], edit=age)

    assert "LogisticRegression was saved by scikit-learn 1.2.1" in refused.value.problem
    assert f"scikit-learn {sklearn.__version__} is installed here" in refused.value.problem
    assert "install scikit-learn 1.2.1 here" in refused.value.remedy


class Aged:
    """Pickles as a logistic regression of another scikit-learn."""

    def __reduce__(self) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression, (), self.__dict__["state"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("requirements.txt", "mlflow==3.1\nscikit-learn==1.2.1  # as trained\n-e .\n"),
        ("conda.yaml", yaml.safe_dump({"dependencies": ["python=3.9", {"pip": ["scikit-learn==1.2.1"]}]})),
        ("conda.yaml", yaml.safe_dump({"dependencies": ["python=3.9", "scikit-learn=1.2.1"]})),
        ("python_env.yaml", yaml.safe_dump({"dependencies": ["scikit-learn==1.2.1"]})),
    ],
)
def test_the_recorded_version_is_read_wherever_it_stands(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    assert other_versions(recorded_versions(tmp_path, {}), "skops") == "scikit-learn 1.2.1"


def test_another_patch_a_range_and_silence_are_no_reason_for_another_environment(tmp_path: Path) -> None:
    import sklearn

    patched = ".".join([*sklearn.__version__.split(".")[:2], "99"])
    for line in (f"scikit-learn=={patched}", "scikit-learn>=1.5,<99", "scikit-learn", "", "\0 == ?"):
        (tmp_path / "requirements.txt").write_text(line)
        assert not other_versions(recorded_versions(tmp_path, {}), "cloudpickle")


def test_an_old_numpy_counts_for_a_pickle_and_is_told_of_otherwise(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("numpy==1.26.4\nno-such-library==3\n")
    recorded = recorded_versions(tmp_path, {})

    assert not other_versions(recorded, "skops")
    assert other_versions(recorded, "pickle") == "numpy 1.26.4"
    assert (
        differing(recorded) == f"no-such-library 3 (not installed here), numpy 1.26.4 ({np.__version__} here)"
    )
