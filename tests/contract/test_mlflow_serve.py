"""A client of `mlflow models serve` moves by changing a URL: both are asked the same, and answer the same.

The other side is MLflow's own scoring server (what `mlflow models serve` runs) with the very model that was
exported into the pod's bundle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc import scoring_server
from starlette.testclient import TestClient

from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Slot
from tests.pods import RunningPod, running_pod
from tests.pyfunc_models import bundle_of, saved_pyfunc
from tests.unit.serving.gateway_process import Gateway, gateway_running
from tests.zoo.world import saved_onnx, saved_sklearn

pytestmark = [pytest.mark.at_length, pytest.mark.every_python]

# For processes of models on a machine that does other things as well.
PATIENT = {"timeout_ms": 20_000}
RNG = np.random.default_rng(0)
FLOWERS = pd.DataFrame(RNG.uniform(0, 8, (200, 3)), columns=["petal length", "petal width", "sepal"])
PEOPLE = pd.DataFrame(
    {
        "job": RNG.choice(["clerk", "cook", ""], 200),
        "age": RNG.integers(18, 90, 200),
        "pay": RNG.uniform(1, 9, 200),
    }
)
ORDERS = pd.DataFrame(
    {
        "who": RNG.choice(["ada", "bob"], 60),
        "at": pd.date_range("2026-01-01", periods=60, freq="D"),
        "count": RNG.integers(1, 5, 60),
        "price": RNG.uniform(1, 9, 60),
    }
)


@dataclass
class Served:
    """One model at MLflow's server and, by its name, in the pod."""

    name: str
    theirs: TestClient
    rows: pd.DataFrame | np.ndarray


def iris(folder: Path) -> tuple[Path, pd.DataFrame, dict[str, Any]]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kinds = np.where(FLOWERS.sepal > 4, "setosa", "virginica")
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(FLOWERS, kinds)
    return saved_sklearn(folder, model, FLOWERS), FLOWERS, {"flavor": "sklearn"}


def churn(folder: Path) -> tuple[Path, pd.DataFrame, dict[str, Any]]:
    """Text and numbers, and the probabilities that `pyfunc_predict_fn` asks for."""
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = make_column_transformer((OneHotEncoder(), ["job"]), (StandardScaler(), ["age", "pay"]))
    model = make_pipeline(columns, LogisticRegression()).fit(PEOPLE, PEOPLE.age > 50)
    return (
        saved_sklearn(folder, model, PEOPLE, pyfunc_predict_fn="predict_proba"),
        PEOPLE,
        {"flavor": "sklearn"},
    )


def wages(folder: Path) -> tuple[Path, np.ndarray, dict[str, Any]]:
    """Trained on an array, whose signature is a tensor; two answers a row."""
    from sklearn.linear_model import LinearRegression

    rows = FLOWERS.to_numpy()
    model = LinearRegression().fit(rows, np.stack([rows.sum(axis=1), rows[:, 0]], axis=1))
    data = {"inputs": {"input": list(FLOWERS)}}
    return saved_sklearn(folder, model, rows), rows, {"flavor": "sklearn", "data": data}


def graph(folder: Path) -> tuple[Path, pd.DataFrame, dict[str, Any]]:
    """ONNX without a signature, by MLflow's flavour of it."""
    from tests.bundles import elementwise

    saved_onnx(folder, elementwise(shape=("N", 1)))
    (folder / "MLmodel").write_text(
        "flavors:\n  onnx: {data: model.onnx, onnx_version: '1', providers: [CPUExecutionProvider]}\n"
        "  python_function: {loader_module: mlflow.onnx, data: model.onnx, env: {}}\n"
    )
    return folder, pd.DataFrame({"x": np.float32([0.5, 1.25, 3.0])}), {"flavor": "onnx"}


def orders(folder: Path) -> tuple[Path, pd.DataFrame, dict[str, Any]]:
    answer = pd.DataFrame({"total": [1.0], "words": ["a"], "is_large": [True]})
    saved = saved_pyfunc(folder, "orders", ORDERS, answer)
    columns = {name: {"nullable": True} for name in ("who", "price")}
    return saved, ORDERS, {"data": {"columns": columns}, "finite_inputs": False}


def sentences(folder: Path) -> tuple[Path, pd.DataFrame, dict[str, Any]]:
    saved = saved_pyfunc(folder, "sentences", None, None, signature=None)
    return saved, pd.DataFrame({"text": ["a", "bb", "ccc"] * 11}), {"data": {"inputs": {"input": "text"}}}


def doubling(folder: Path) -> tuple[Path, pd.DataFrame, dict[str, Any]]:
    """Arrays in and out, for a model that is served as it is."""
    example = np.zeros((2, 3), np.float32)
    return saved_pyfunc(folder, "doubling", example, example), FLOWERS, {}


MODELS = {make.__name__: make for make in (iris, churn, wages, graph, orders, sentences, doubling)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def made(folder: Path, lasting_environments: Path) -> dict[str, tuple[Path, Path]]:
    """By name, the model as MLflow saved it, and its bundle."""
    found = {}
    for name, make in MODELS.items():
        saved, rows, settings = make(folder / name)
        table = rows if isinstance(rows, pd.DataFrame) else FLOWERS
        found[name] = (
            saved,
            bundle_of(folder / f"home-{name}", saved, table, name=name, **{**PATIENT, **settings}),
        )
    return found


@pytest.fixture(scope="module")
def pod(made: dict[str, tuple[Path, Path]]) -> Iterator[RunningPod]:
    with running_pod(*(bundle for _, bundle in made.values())) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(pod: RunningPod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway_running(tmp_path_factory.mktemp("home")) as running:
        for name in MODELS:
            stable = Deployment(DeploymentRef(name, Slot.BLUE, "b1", 1), (Endpoint("127.0.0.1", pod.port),))
            running.router.write(name, ALL_STABLE, stable=stable, candidate=None, at=0)
        for name in MODELS:
            running.wait(lambda name=name: running.client.get(f"/v2/models/{name}/ready").status_code == 200)
        yield running


@pytest.fixture(scope="module")
def theirs(made: dict[str, tuple[Path, Path]]) -> dict[str, TestClient]:
    return {
        name: TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(saved))))
        for name, (saved, _) in made.items()
    }


def split(rows: pd.DataFrame) -> dict[str, Any]:
    return {"dataframe_split": json.loads(rows.to_json(orient="split", date_format="iso"))}


def records(rows: pd.DataFrame) -> dict[str, Any]:
    return {"dataframe_records": json.loads(rows.to_json(orient="records", date_format="iso"))}


SHUFFLED = FLOWERS.head(3)[["sepal", "petal width", "petal length"]]
GAPS = ORDERS.head(4).assign(who=["ada", None, "bob", None], price=[None, 2.5, 1.0, None])
ASKED: list[tuple[str, Any]] = [
    ("iris", split(FLOWERS.head(5))),
    ("iris", records(FLOWERS.head(1))),
    ("iris", records(SHUFFLED.assign(unknown="more"))),
    ("iris", {"inputs": FLOWERS.head(3).to_dict("list")}),
    ("iris", {"instances": FLOWERS.head(3).to_dict("records")}),
    ("churn", split(PEOPLE.head(4))),
    ("churn", records(PEOPLE.head(2))),
    ("wages", {"inputs": FLOWERS.head(4).to_numpy().tolist()}),
    ("wages", {"instances": FLOWERS.head(4).to_numpy().tolist()}),
    ("wages", split(FLOWERS.head(2))),
    ("graph", {"dataframe_split": {"columns": ["x"], "data": [[0.5], [2.0]]}}),
    ("orders", split(ORDERS.head(5))),
    ("orders", records(GAPS)),
    ("sentences", {"inputs": ["Zürich ☕", ""]}),
    ("doubling", {"inputs": [[1, 2, 3], [4.5, 5, 6]]}),
    ("doubling", {"instances": [[1, 2, 3]]}),
]


def same(ours: Any, theirs: Any) -> bool:
    """Floats as float32 has them."""
    if isinstance(theirs, list):
        return type(ours) is list and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, dict):
        return (
            type(ours) is dict
            and list(ours) == list(theirs)
            and all(map(same, ours.values(), theirs.values()))
        )
    if isinstance(theirs, float):
        return type(ours) is float and ours == pytest.approx(theirs, rel=1e-5, abs=1e-6, nan_ok=True)
    return type(ours) is type(theirs) and bool(ours == theirs)


@pytest.mark.parametrize(("name", "body"), ASKED)
def test_what_mlflows_server_answers_is_answered(
    pod: RunningPod, gateway: Gateway, theirs: dict[str, TestClient], name: str, body: Any
) -> None:
    expected = theirs[name].post("/invocations", json=body)
    assert expected.status_code == 200, expected.text
    path = f"/v2/models/{name}/invocations"
    for ours in (
        pod.http.post(path, json=body),
        gateway.client.post(path, json=body),
        gateway.client.post(f"/v2/models/{name}/versions/1/invocations", json=body),
        gateway.client.post("/invocations", json=body, headers={"host": f"{name}.models.example:8080"}),
    ):
        assert ours.status_code == 200, ours.text
        assert same(ours.json(), expected.json()), (ours.text, expected.text)


def test_csv_is_a_table_too(pod: RunningPod, theirs: dict[str, TestClient]) -> None:
    plain, excel = b"", b"\xef\xbb\xbf"
    for name, rows, mark in (("iris", FLOWERS.head(3), excel), ("churn", PEOPLE.head(3), plain)):
        content = mark + rows.to_csv(index=False).encode()
        sent: dict[str, Any] = {"content": content, "headers": {"content-type": "text/csv"}}
        expected = theirs[name].post("/invocations", **sent)
        assert expected.status_code == 200, expected.text
        ours = pod.http.post(f"/v2/models/{name}/invocations", **sent)
        assert same(ours.json(), expected.json()), (ours.text, expected.text)


REFUSED: list[tuple[str, Any, str]] = [
    ("iris", {"inputs": [[1, 2, 3]], "params": {"threshold": 0.4}}, "`params` are not taken"),
    ("iris", {"rows": [[1]]}, "exactly one of"),
    ("iris", {"inputs": [[1, 2, 3]], "instances": [[1, 2, 3]]}, "exactly one of"),
    ("iris", [[1, 2, 3]], "not a JSON object"),
    ("iris", records(FLOWERS.head(1)[["sepal"]]), "petal length, petal width"),
    ("iris", {"inputs": [[1, 2]]}, "takes 3"),
    ("iris", {"inputs": [["a", "b", "c"]]}, "holds no numbers"),
    ("iris", {"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}, "has not 1 values"),
    ("churn", records(PEOPLE.head(1).assign(job=None)), "data.columns.job.nullable"),
    ("orders", records(ORDERS.head(1).assign(at="soon")), "takes times"),
    ("orders", records(ORDERS.head(1).assign(count=1.5)), "INT64 does not hold"),
    ("doubling", {"inputs": [[1, 2], [3]]}, "no array"),
    ("sentences", {"inputs": [1, 2]}, "send text"),
]


@pytest.mark.parametrize(("name", "body", "why"), REFUSED)
def test_what_cannot_be_meant_is_refused_in_words(pod: RunningPod, name: str, body: Any, why: str) -> None:
    refused = pod.http.post(f"/v2/models/{name}/invocations", json=body)
    assert refused.status_code == 400
    assert why in refused.json()["error"]


def test_other_content_is_415_and_other_methods_405(pod: RunningPod) -> None:
    path = "/v2/models/iris/invocations"
    parquet = {"content-type": "application/vnd.apache.parquet"}
    assert pod.http.post(path, content=b"PAR1", headers=parquet).status_code == 415
    assert pod.http.get(path).status_code == 405


def test_a_host_that_no_model_is_called_as_is_told_where_models_are(gateway: Gateway) -> None:
    answer = gateway.client.post("/invocations", json={"inputs": [[1]]})
    assert answer.status_code == 404
    assert "/v2/models/<name>/invocations" in answer.json()["error"]


def test_a_pod_of_one_model_is_asked_without_its_name(made: dict[str, tuple[Path, Path]]) -> None:
    body = {"inputs": FLOWERS.head(2).to_dict("list")}
    with running_pod(made["iris"][1]) as alone:
        assert len(alone.http.post("/invocations", json=body).json()["predictions"]) == 2
        assert alone.http.get("/ping").status_code == 200


def test_a_bundle_from_before_says_how_to_get_one_that_answers(pod: RunningPod, tmp_path: Path) -> None:
    from tests.bundles import make_bundle, mlp

    with running_pod(make_bundle(tmp_path, mlp())) as old:
        answer: httpx.Response = old.http.post("/invocations", json={"inputs": [[1, 2, 3, 4]]})
    assert answer.status_code == 404
    assert "release the version again" in answer.json()["error"]
