"""Four versions, trained for real and registered in a real MLflow: each fit for its part in the story."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from demo.data import FEATURES, LABEL, Parts
from demo.models import MODEL, RECIPES, TRUSTED_TYPES, learnt_rows, main
from demo.place import DemoHome
from demo.registry import wait_for_registry
from model_store.errors import Permanent, Retryable

# The demo itself trains them too, and fails where one is not fit for its part.
pytestmark = pytest.mark.at_length

Metrics = dict[int, dict[str, float]]


@pytest.fixture(scope="module")
def registered(home: DemoHome) -> Metrics:
    """What `python -m demo.models 1 2 3 4` printed, by version."""
    environment = os.environ | {
        "SLIPWAY_HOME": str(home.root),
        "SLIPWAY_PORT_MLFLOW": home.mlflow_url.rpartition(":")[2],
    }
    command = [sys.executable, "-m", "demo.models", *map(str, sorted(RECIPES))]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return {line["version"]: line for line in lines}


@pytest.fixture
def client(home: DemoHome, registered: Metrics) -> MlflowClient:
    mlflow.set_tracking_uri(home.mlflow_url)
    return MlflowClient()


def test_versions_are_numbered_as_the_story_tells_them(registered: Metrics) -> None:
    assert sorted(registered) == [1, 2, 3, 4]


def test_the_second_version_is_clearly_better_than_the_first(registered: Metrics) -> None:
    assert registered[2]["accuracy"] > registered[1]["accuracy"] + 0.015
    assert registered[2]["auc"] > registered[1]["auc"] + 0.015


def test_the_misjoined_version_is_clearly_worse_than_the_one_before(registered: Metrics) -> None:
    assert registered[3]["accuracy"] < registered[2]["accuracy"] - 0.04


def test_the_fourth_version_is_as_good_as_the_second_offline(registered: Metrics) -> None:
    assert registered[4]["accuracy"] > registered[2]["accuracy"] - 0.01
    assert registered[4]["auc"] > registered[2]["auc"] - 0.01


def test_a_misjoin_moves_labels_but_neither_adds_nor_loses_any(home: DemoHome) -> None:
    parts = Parts.under(home.data / MODEL)
    _, right = learnt_rows(RECIPES[2], parts)
    _, wrong = learnt_rows(RECIPES[3], parts)
    half = len(right) // 2
    assert (right[:half] == wrong[:half]).all()
    assert (right[half:-1] == wrong[half + 1 :]).all()
    assert right.sum() == wrong.sum()


def test_a_version_carries_its_run_params_metrics_and_story(
    client: MlflowClient, registered: Metrics
) -> None:
    version = client.get_model_version(MODEL, "3")
    run = client.get_run(str(version.run_id))
    assert "bad join" in str(version.description)
    assert run.data.params["rows"] == "2448"
    assert run.data.metrics["accuracy"] == pytest.approx(registered[3]["accuracy"])


def test_the_signature_is_one_float32_tensor_of_every_feature(client: MlflowClient) -> None:
    signature = mlflow.models.get_model_info(f"models:/{MODEL}/2").signature
    (tensor,) = signature.inputs.to_dict()
    assert tensor["tensor-spec"] == {"dtype": "float32", "shape": (-1, len(FEATURES))}


def test_a_registered_model_comes_back_and_answers_as_its_metrics_say(
    client: MlflowClient, home: DemoHome, registered: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = mlflow.sklearn.load_model(f"models:/{MODEL}/2")
    table = pd.read_parquet(Parts.under(home.data / MODEL).evaluation)
    answers = pipeline.predict(table[list(FEATURES)].to_numpy(np.float32))
    assert float((answers == table[LABEL]).mean()) == pytest.approx(registered[2]["accuracy"])


def test_the_model_is_saved_without_pickle_and_names_the_types_it_needs(client: MlflowClient) -> None:
    flavor = mlflow.models.get_model_info(f"models:/{MODEL}/1").flavors["sklearn"]
    assert flavor["serialization_format"] == "skops"
    assert flavor["skops_trusted_types"] == list(TRUSTED_TYPES)


def test_a_registry_that_already_has_versions_is_refused_with_the_remedy(
    home: DemoHome, registered: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(home.root))
    monkeypatch.setenv("SLIPWAY_PORT_MLFLOW", home.mlflow_url.rpartition(":")[2])
    with pytest.raises(Permanent, match="fresh SLIPWAY_HOME"):
        main(["1"])


def test_a_registry_that_never_answers_is_named_with_its_log(tmp_path: Path) -> None:
    nowhere = DemoHome(tmp_path, "", "http://127.0.0.1:1024", "")
    with pytest.raises(Retryable, match=r"mlflow\.log"):
        wait_for_registry(nowhere, seconds=0.1)
