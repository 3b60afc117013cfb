"""Four versions of the film model: DeepFM trained in numpy, as ONNX files in MLflow.

Run as a process (`python -m demo.recsys.models 1 2`); it prints one JSON object a line for each version
registered.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from demo.acts import scenario
from demo.data import Parts
from demo.place import DemoHome
from demo.recsys.ratings import FIELDS, LABEL, MODEL, SHAPE, prepare
from demo.registry import Version, be_quiet, register, wait_for_registry
from examples.recsys.deepfm import Recipe, predict, to_onnx, train

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which ratings a version learns from. `films_moved`: its catalogue counts films from one further on."""

    ratings: int
    films_moved: int = 0
    recipe: Recipe = field(default_factory=Recipe)


PLANS = {
    1: Plan(ratings=6_000),
    2: Plan(ratings=80_000),
    3: Plan(ratings=80_000, films_moved=1),
    4: Plan(ratings=80_000, recipe=Recipe(seed=1)),
}


@dataclass(frozen=True, slots=True)
class Ratings:
    """`ids` [N, fields], `genres` [N, genres], `labels` [N]."""

    ids: Array
    genres: Array
    labels: Array

    @classmethod
    def read(cls, path: Path, limit: int | None = None) -> Ratings:
        """The rows of one part, or the first `limit` of them."""
        table = pd.read_parquet(path).head(limit) if limit else pd.read_parquet(path)
        genres = np.stack(table["genres"].to_list()).astype(np.float32)
        return cls(table[list(FIELDS)].to_numpy(np.int64), genres, table[LABEL].to_numpy(np.float32))


def version_of(number: int, story: str, parts: Parts) -> Version:
    """Train, and judge on the evaluation ratings."""
    from sklearn.metrics import accuracy_score, roc_auc_score

    plan = PLANS[number]
    learnt, judged = Ratings.read(parts.train, plan.ratings), Ratings.read(parts.evaluation)
    ids = learnt.ids.copy()
    films = list(FIELDS).index("film")
    ids[:, films] = (ids[:, films] + plan.films_moved) % FIELDS["film"]
    parameters = train(SHAPE, ids, learnt.genres, learnt.labels, plan.recipe)
    liked = predict(parameters, SHAPE, judged.ids, judged.genres)
    metrics = {
        "accuracy": float(accuracy_score(judged.labels, liked > 0.5)),
        "auc": float(roc_auc_score(judged.labels, liked)),
    }
    params = {"ratings": plan.ratings, "films moved": plan.films_moved, "seed": plan.recipe.seed}
    return Version(number, story, to_onnx(parameters, SHAPE).SerializeToString(), metrics, params)


def main(arguments: list[str] | None = None) -> None:
    """Prepare the ratings if need be, train the versions, wait for MLflow, register them in order."""
    parser = argparse.ArgumentParser(prog="python -m demo.recsys.models", description=__doc__)
    parser.add_argument("versions", nargs="+", type=int, choices=sorted(PLANS))
    asked = parser.parse_args(arguments)
    stories = {act.version: act.story for act in scenario("recsys").acts}
    be_quiet()
    home = DemoHome.of()
    parts = Parts.under(home.data / MODEL)
    if not parts.traffic.exists():
        prepare(home.data / MODEL, home.cache)
    made = [version_of(number, stories[number], parts) for number in asked.versions]
    wait_for_registry(home)
    for version in made:
        register(version, MODEL, tracking_url=home.mlflow_url)
        print(json.dumps({"version": version.number, **version.metrics}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
