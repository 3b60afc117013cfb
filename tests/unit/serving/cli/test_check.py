"""`slipway check` on folders that MLflow itself saved, with real stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from serving.cli.app import app
from tests.build_world import hurry

FEATURES = ["age", "income", "debt"]


def rows(count: int, seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(random.normal(size=(count, 3)), columns=FEATURES)
    frame["bad"] = (frame.age + 0.4 * random.normal(size=count) > 0).astype(int)
    return frame


def saved(folder: Path, labels: Any, train: pd.DataFrame) -> Path:
    model = LogisticRegression().fit(train[FEATURES], labels)
    signature = infer_signature(train[FEATURES], model.predict(train[FEATURES]))
    mlflow.sklearn.save_model(model, str(folder), signature=signature, pip_requirements=[])
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a spec, a model that learnt and one that learnt noise."""
    folder = tmp_path_factory.mktemp("check")
    train = rows(1500, 0)
    saved(folder / "learnt", train.bad, train)
    saved(folder / "noise", np.random.default_rng(5).permutation(train.bad), train)
    rows(1500, 1).to_parquet(folder / "evaluation.parquet")
    rows(400, 2).to_parquet(folder / "calibration.parquet")
    spec = {
        "model": "churn",
        "source": {"flavor": "sklearn", "trusted": True},
        "data": {
            "evaluation": str(folder / "evaluation.parquet"),
            "calibration": str(folder / "calibration.parquet"),
            "label": "bad",
        },
        "precisions": ["fp32"],
        "targets": ["onnxruntime"],
        "gates": {"champion": {"max_drop": 0.02}},
        "rollout": {"steps": [{"weight": 100, "hold_seconds": 1}]},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return folder


def check(place: Path, tmp_path: Path, *arguments: str) -> tuple[int, str, str]:
    environment = {"COLUMNS": "200", "SLIPWAY_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    done = CliRunner(env=environment).invoke(app, ["check", str(place / "spec.yaml"), *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_a_version_that_would_be_published_ends_with_0(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    status, out, _ = check(place, tmp_path, "--model", str(place / "learnt"))
    assert status == 0
    assert "Would be published as" in out
    assert "accuracy non-inferiority: 0.8" in out


def test_a_version_worse_than_the_champion_is_blocked_with_1(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    named = ("--model", str(place / "noise"), "--champion", str(place / "learnt"), "--json")
    status, out, _ = check(place, tmp_path, *named)
    said = json.loads(out)
    assert (status, said["ending"]) == (1, "blocked")
    fp32 = next(one for one in said["candidates"] if one["precision"] == "fp32")
    missed = [one["name"] for one in fp32["checks"] if not one["passed"]]
    assert any("champion v1" in name for name in missed)


def test_the_same_model_as_the_champion_passes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    named = ("--model", str(place / "learnt"), "--champion", str(place / "learnt"))
    assert check(place, tmp_path, *named)[0] == 0


def test_a_folder_that_is_no_model_is_refused_with_2(place: Path, tmp_path: Path) -> None:
    status, _, err = check(place, tmp_path, "--model", str(tmp_path))
    assert status == 2
    assert "it has no file MLmodel" in err


def test_a_registry_that_does_not_answer_is_named(place: Path, tmp_path: Path) -> None:
    status, out, _ = check(place, tmp_path, "--model", "models:/churn/1", "--json")
    said = json.loads(out)
    assert status == 2
    assert "MLflow" in said["problem"]
    assert said["remedy"]


def test_a_version_of_another_model_is_refused(place: Path, tmp_path: Path) -> None:
    status, _, err = check(place, tmp_path, "--model", "models:/credit/1")
    assert status == 2
    assert "the spec releases churn" in err


def test_a_folder_leaves_nothing_behind(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    check(place, tmp_path, "--model", str(place / "learnt"))
    assert list(tmp_path.iterdir()) == []


def test_a_first_spec_of_a_folder_passes_the_check_once_its_question_is_answered(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    rows(2500, 3).to_parquet(tmp_path / "rows.parquet")
    written = tmp_path / "first.yaml"
    given = ["spec", "init", str(place / "learnt"), "--data", str(tmp_path / "rows.parquet")]
    made = CliRunner(env={"SLIPWAY_HOME": str(tmp_path / "home")}).invoke(
        app, [*given, "--output", str(written)]
    )
    assert (made.exit_code, made.stderr) == (0, "")
    assert "source.allow" in made.stdout
    answered = written.read_text().replace("allow:                # ", "allow: ")
    written.write_text(answered + "precisions: [fp32]\ntargets: [onnxruntime]\n")
    environment = {"COLUMNS": "200", "SLIPWAY_HOME": str(tmp_path / "home")}
    named = ["check", str(written), "--model", str(place / "learnt")]
    assert CliRunner(env=environment).invoke(app, named).exit_code == 0


def test_what_names_no_version_is_refused_by_spec_init_as_well(place: Path, tmp_path: Path) -> None:
    given = ["spec", "init", "models:/churn", "--data", str(place / "evaluation.parquet")]
    made = CliRunner(env={"SLIPWAY_HOME": str(tmp_path / "home")}).invoke(app, given)
    assert made.exit_code == 1
    assert "names no version" in made.stderr
