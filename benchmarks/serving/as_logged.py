"""Models served as they were logged: our pod beside MLServer's MLflow runtime and MLflow's own server.

    python -m benchmarks.serving.as_logged [--rounds 3] [--seconds 5]

A logistic regression and a forest of 100 trees of scikit-learn over ten columns, asked for one row a request
by 32 connections (`wrk`). MLServer and our pod get the same Open Inference Protocol body, MLflow's server the
same row as `dataframe_split`. Theirs run the model in the server's process, ours in one of its own. Last
comes one line of JSON: ratios of requests per second within this run. Exits with 1 where ours are fewer than
twice MLServer's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from benchmarks.serving.against_peers import Score, script_of, take_turn
from benchmarks.serving.load import need
from benchmarks.serving.report import console
from benchmarks.serving.servers import PEER_SERVERS, Peer, Running, free_port, install, pod_server, started
from tests.pyfunc_models import bundle_of

COLUMNS = [f"c{place}" for place in range(10)]
LIMIT = 2.0
MLSERVER = Peer("mlserver_mlflow", ("mlserver==1.7.1", "mlserver-mlflow==1.7.1"), "/v2/models/m/infer")
MLFLOW = Peer("mlflow", (), "/invocations")


def regression() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression()


def forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(100, max_depth=8, random_state=0)


MODELS: dict[str, Callable[[], Any]] = {"logistic regression": regression, "forest of 100 trees": forest}


def logged(build: Callable[[], Any], folder: Path) -> tuple[Path, pd.DataFrame]:
    """The folder as MLflow writes it, and 64 rows to ask for."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(2000, len(COLUMNS))), columns=COLUMNS)
    right = (rows.c0 + rows.c1 * rows.c2 > 0).astype(int)
    model = build().fit(rows, right)
    needs = [
        f"{name}=={version(name)}" for name in ("mlflow", "pandas", "numpy", "scikit-learn", "cloudpickle")
    ]
    mlflow.sklearn.save_model(
        model,
        str(folder),
        serialization_format="cloudpickle",
        signature=infer_signature(rows, model.predict(rows)),
        pip_requirements=needs,
    )
    return folder, rows.head(64)


def oip_bodies(rows: pd.DataFrame) -> list[bytes]:
    """`content_type`: MLServer makes a DataFrame of it."""
    return [
        json.dumps(
            {
                "parameters": {"content_type": "pd"},
                "inputs": [
                    {"name": name, "datatype": "FP64", "shape": [1, 1], "data": [float(row[name])]}
                    for name in COLUMNS
                ],
            }
        ).encode()
        for _, row in rows.iterrows()
    ]


def invocations_bodies(rows: pd.DataFrame) -> list[bytes]:
    return [
        json.dumps({"dataframe_split": {"columns": COLUMNS, "data": [list(map(float, row))]}}).encode()
        for row in rows.to_numpy()
    ]


@contextmanager
def mlserver(model: Path, body: bytes) -> Iterator[Running]:
    python, port = install(needing_sklearn(MLSERVER)), free_port()
    environment = {
        **beside(python),
        "BENCH_MODEL": str(model),
        "BENCH_PORT": str(port),
        "PYTHONPATH": str(PEER_SERVERS),
    }
    command = [str(python), str(PEER_SERVERS / "serve_mlserver_mlflow.py")]
    url = f"http://127.0.0.1:{port}{MLSERVER.path}"
    with started("mlserver", command, environment, url, body, PEER_SERVERS) as running:
        yield running


@contextmanager
def mlflow_server(model: Path, body: bytes) -> Iterator[Running]:
    """`mlflow models serve`, with what is installed where MLServer is."""
    python, port = install(needing_sklearn(MLSERVER)), free_port()
    command = [
        str(python), "-m", "mlflow", "models", "serve", "--model-uri", str(model), "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}{MLFLOW.path}"
    with started("mlflow", command, beside(python), url, body, PEER_SERVERS) as running:
        yield running


def beside(python: Path) -> dict[str, str]:
    """Our environment, in which this Python's programs come first."""
    return {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}


def needing_sklearn(peer: Peer) -> Peer:
    """With the libraries that the models were logged with."""
    own = tuple(f"{name}=={version(name)}" for name in ("mlflow", "pandas", "numpy", "scikit-learn"))
    return Peer(peer.name, (*peer.requirements, *own), peer.path)


def compared(name: str, *, rounds: int, seconds: float) -> dict[str, Score]:
    """Every server's rounds on one model, in turn."""
    work = Path(tempfile.mkdtemp(prefix="bench-as-logged-"))
    model, rows = logged(MODELS[name], work / "model")
    oip, invoked = oip_bodies(rows), invocations_bodies(rows)
    bundle = bundle_of(work / "home", model, rows.head(64), name="m")
    with ExitStack() as stack:
        running = [
            (stack.enter_context(pod_server(bundle, oip[0])), script_of(work, "slipway", oip)),
            (stack.enter_context(mlserver(model, oip[0])), script_of(work, "mlserver", oip)),
            (stack.enter_context(mlflow_server(model, invoked[0])), script_of(work, "mlflow", invoked)),
        ]
        scores = {one.name: Score(one.name) for one, _ in running}
        for number in range(rounds + 1):
            for one, script in running:
                length = seconds if number else 1.0
                take_turn(scores[one.name], one, script, length, counts=bool(number))
    return scores


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args(arguments)
    need("wrk")
    ratios: dict[str, dict[str, float]] = {}
    for name in MODELS:
        scores = compared(name, rounds=options.rounds, seconds=options.seconds)
        ours = scores["slipway"].per_second
        table = Table(
            "server", "requests/s", "ours to it", "p50 ms", "p99 ms", "memory MB", "failed", title=name
        )
        for score in scores.values():
            figures = [ours / score.per_second, score.p50_ms, score.p99_ms, score.memory_mb]
            told = [f"{one:.2f}" if one < 100 else f"{one:.0f}" for one in figures]
            table.add_row(score.server, f"{score.per_second:,.0f}", *told, str(score.failed))
        console.print(table)
        ratios[name] = {other: round(ours / score.per_second, 2) for other, score in scores.items()}
    print(json.dumps(ratios))
    return 0 if all(found["mlserver"] >= LIMIT for found in ratios.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
