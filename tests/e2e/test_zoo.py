"""Models of the zoo, through the whole stack: what Envoy answers is what the model's own framework answers.

Each is registered in MLflow as it was logged and released by its DAG; no two are of a kind. Then their rows
are sent through the gateway as a user's program would, by what `/v2/models/NAME` says of inputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from demo.clients import SLIPWAY, DagRun
from tests.e2e.conftest import LAME
from tests.e2e.stack import Stack, wait_until
from tests.zoo import as_logged, classifiers, graphs, regressors
from tests.zoo.world import Kind, Made, asked_onnx

pytestmark = [pytest.mark.e2e, pytest.mark.at_length, pytest.mark.timeout(1500)]

Array = np.ndarray[Any, Any]
Answers = Mapping[str, Array]
PATIENCE_SECONDS = 900
ALL = (*classifiers.KINDS, *regressors.KINDS, *graphs.KINDS, *as_logged.KINDS)
KINDS: dict[str, Kind] = {kind.name: kind for kind in ALL}
# Of numbers, between float64 in scikit-learn and float32 in a pod.
NEAR = 1e-4


@dataclass(frozen=True)
class Animal:
    """One model. `columns`: what it is asked with. `answers`: its own framework's, by name of the output."""

    kind: str
    columns: tuple[str, ...]
    answers: Callable[[Made, pd.DataFrame], Answers]


def of_sklearn(*outputs: str) -> Callable[[Made, pd.DataFrame], Answers]:
    """`predict`, and `predict_proba` where two outputs are named."""

    def answers(made: Made, rows: pd.DataFrame) -> Answers:
        import mlflow.sklearn

        model = mlflow.sklearn.load_model(str(made.model))
        takes_names = hasattr(model, "feature_names_in_") or len(rows.columns) == 1
        asked = rows if takes_names else rows.to_numpy()
        asked = asked.iloc[:, 0] if len(rows.columns) == 1 else asked
        decided = model.predict(asked)
        found = {outputs[0]: decided.reshape(len(rows), -1) if outputs[0] == "variable" else decided}
        return found | ({outputs[1]: model.predict_proba(asked)} if len(outputs) > 1 else {})

    return answers


def of_onnxruntime(made: Made, rows: pd.DataFrame) -> Answers:
    import onnx

    return asked_onnx(onnx.load(made.model / "model.onnx"), {"x": rows.to_numpy(np.float32)})


def of_a_table(made: Made, rows: pd.DataFrame) -> Answers:
    """By the team's own module, that was logged beside the model: a table of text and numbers."""
    said = as_logged.house_rules().decided(rows)
    return {name: said[name].to_numpy() for name in said.columns}


LABELLED = of_sklearn("label", "probabilities")
ANIMALS = {
    "zoo_texts": Animal("German texts", ("text",), LABELLED),
    "zoo_stamps": Animal("a tree on a time stamp", ("at", "b"), LABELLED),
    "zoo_labels": Animal("several labels, one by one", ("a", "b", "c"), LABELLED),
    "zoo_days": Animal("linear regression", ("a", "b", "c"), of_sklearn("variable")),
    "zoo_fruit": Animal("classes in words", ("a", "b"), LABELLED),
    "zoo_embedded": Animal(
        "probabilities beside an embedding", tuple(f"c{place}" for place in range(8)), of_onnxruntime
    ),
    "zoo_cities": Animal("text and numbers", (*classifiers.NUMBERS, "city"), LABELLED),
    "zoo_boosted": Animal("histogram gradient boosting", tuple(classifiers.NUMBERS), LABELLED),
    "zoo_prices": Animal("random forest of numbers", ("a", "b", "c"), of_sklearn("variable")),
    "zoo_rules": Animal(
        "code paths, text, times, truth and gaps", ("city", "born", "is_member", "debt"), of_a_table
    ),
}


@dataclass
class Zoo:
    """The animals, each released."""

    stack: Stack
    made: dict[str, Made]

    def rows(self, name: str) -> pd.DataFrame:
        return self.made[name].evaluation[list(ANIMALS[name].columns)]

    def own_answers(self, name: str) -> Answers:
        return ANIMALS[name].answers(self.made[name], self.rows(name))

    def described(self, name: str) -> list[dict[str, Any]]:
        """The inputs that the gateway says the model takes."""
        url = f"{self.stack.gateway_url}/v2/models/{name}"
        found: list[dict[str, Any]] = httpx.get(url, trust_env=False).raise_for_status().json()["inputs"]
        return found

    def inputs(self, name: str) -> Iterator[tuple[dict[str, Any], Array]]:
        """Each input with the values of all rows: a column of its name, or all columns in one matrix."""
        rows = self.rows(name)
        for told in self.described(name):
            column = told["name"] if told["name"] in rows.columns else None
            yield told, rows[[column]].astype(object).to_numpy() if column else rows.to_numpy()


@pytest.fixture(scope="module")
def zoo(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Their releases wait for each other only where the machine is too small."""
    folder = tmp_path_factory.mktemp("zoo")
    made = {name: KINDS[animal.kind].make(folder / name) for name, animal in ANIMALS.items()}
    for name, one in made.items():
        bring(stack, name, one)
        stack.wait_for_dag(f"release_{name}")
    runs = {name: stack.platform.trigger(f"release_{name}", {"version": "1"}) for name in made}
    for name, run in runs.items():
        # Its watch, and with it the run, goes on until somebody calls.
        wait_until(partial(is_promoted, stack, run), seconds=PATIENCE_SECONDS, what=f"{name} to be promoted")
    return Zoo(stack, made)


def is_promoted(stack: Stack, run: DagRun) -> bool:
    assert stack.platform.run(run).state != "failed", stack.why(run)
    tasks = (one for one in stack.platform.tasks(run) if one["task_id"] == "rollout.promote")
    return next(tasks)["state"] == "success"


def bring(stack: Stack, name: str, made: Made) -> None:
    """Its rows where the spec says, and the model into MLflow, byte for byte as it was logged."""
    data = stack.root / "data" / name
    data.mkdir(parents=True)
    made.evaluation.to_parquet(data / "evaluation.parquet", index=False)
    made.calibration.to_parquet(data / "calibration.parquet", index=False)
    with talking_to(stack.mlflow_url):
        import mlflow

        with mlflow.start_run(run_name=name) as run:
            mlflow.log_artifacts(str(made.model), "model")
        client = mlflow.MlflowClient()
        client.create_registered_model(name)
        client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)


@contextmanager
def talking_to(url: str) -> Iterator[None]:
    """MLflow's client is told where by the environment, which other tests share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", url)
        patch.setenv("NO_PROXY", ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])))
        yield


def by_rest(zoo: Zoo, name: str) -> Answers:
    """As a program that knows JSON and nothing else."""
    inputs, parts = list(zoo.inputs(name)), []
    count = len(zoo.rows(name))
    for first in range(0, count, 50):
        body = {
            "inputs": [
                {
                    "name": told["name"],
                    "datatype": told["datatype"],
                    "shape": list(values[first : first + 50].shape),
                    "data": as_json(values[first : first + 50], is_text=told["datatype"] == "BYTES"),
                }
                for told, values in inputs
            ]
        }
        answer = httpx.post(zoo.stack.infer_url(name), json=body, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        parts.append(
            {one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in answer.json()["outputs"]}
        )
    return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}


def as_json(values: Array, *, is_text: bool) -> list[Any]:
    """Times as ISO 8601, a missing number as null and missing text as empty text (docs/specs.md)."""
    missing = "" if is_text else None
    flat = [missing if pd.isna(value) else value for value in values.ravel().tolist()]
    return [value.isoformat() if isinstance(value, datetime) else value for value in flat]


def by_grpc(zoo: Zoo, name: str) -> Answers:
    """With NVIDIA's client."""
    from tritonclient import grpc, utils

    client = grpc.InferenceServerClient(zoo.stack.gateway_url.removeprefix("http://"))
    asked = []
    for told, values in zoo.inputs(name):
        array = values.astype(utils.triton_to_np_dtype(told["datatype"]))
        tensor = grpc.InferInput(told["name"], list(array.shape), told["datatype"])
        tensor.set_data_from_numpy(np.char.encode(array.astype(str)) if array.dtype == object else array)
        asked.append(tensor)
    result = client.infer(name, asked)
    outputs = [output.name for output in result.get_response().outputs]
    found = {output: result.as_numpy(output) for output in outputs}
    client.close()
    return {
        output: np.char.decode(array.astype(bytes)) if array.dtype == object else array
        for output, array in found.items()
    }


def require_same(ours: Answers, theirs: Answers) -> None:
    """Decisions are the same, numbers as near as their types let them be."""
    assert ours.keys() == theirs.keys()
    for output, array in ours.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, theirs[output], rtol=NEAR, atol=NEAR, err_msg=output)
        else:
            np.testing.assert_array_equal(array, theirs[output], err_msg=output)


@pytest.mark.parametrize("name", ANIMALS)
def test_served_answers_are_those_of_the_models_own_framework(zoo: Zoo, name: str) -> None:
    require_same(by_rest(zoo, name), zoo.own_answers(name))


@pytest.mark.parametrize("name", ["zoo_texts", "zoo_stamps"])
def test_they_are_the_same_in_grpc(zoo: Zoo, name: str) -> None:
    require_same(by_grpc(zoo, name), zoo.own_answers(name))


@pytest.mark.parametrize("name", ANIMALS)
def test_each_was_asked_through_the_gateway_before_anybody_was_sent_there(zoo: Zoo, name: str) -> None:
    told = zoo.stack.platform.get(f"{SLIPWAY}/history", model=name)["moments"]
    (asked,) = (one for one in told if one["action"] == "answers compared")
    assert asked["reason"] == "64 evaluation rows were answered through the gateway as in the gates"


def test_a_first_version_whose_pods_fail_gets_no_callers(zoo: Zoo) -> None:
    """Without anybody who calls, its first users would have found out."""
    bring(zoo.stack, LAME, zoo.made["zoo_days"])
    zoo.stack.wait_for_dag(f"release_{LAME}")
    run = zoo.stack.run_dag(f"release_{LAME}", conf={"version": "1"}, seconds=PATIENCE_SECONDS)
    assert run.state == "failed"
    (release,) = zoo.stack.platform.releases(LAME)
    assert release["status"] == "rolled_back"
    assert "answers an evaluation row with 500" in zoo.stack.registry.tags(LAME, 1)["slipway.reason"]
    assert zoo.stack.platform.shares(LAME) == {}
    assert zoo.stack.registry.champion(LAME) is None
