"""Four versions of the credit model, trained here and registered in MLflow as any team would.

Run as a process (`python -m demo.models 1 2`), so that scikit-learn and MLflow load outside the demo's own
process; it prints one JSON object a line for each version registered.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from demo.data import FEATURES, LABEL, Parts, prepare
from demo.place import DemoHome
from demo.registry import be_quiet, describe, wait_for_registry

if TYPE_CHECKING:
    import numpy.typing as npt
    from sklearn.pipeline import Pipeline

MODEL = "credit_risk"
EXPERIMENT = "credit_risk training"
# scikit-learn's own optimiser state, which skops does not yet know as harmless.
TRUSTED_TYPES = ("sklearn.neural_network._stochastic_optimizers.AdamOptimizer",)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one version is trained. From `misjoined_from` (share of the rows) on, labels are one row off."""

    version: int
    story: str
    rows_share: float = 1.0
    misjoined_from: float = 1.0
    seed: int = 0


RECIPES = {
    recipe.version: recipe
    for recipe in (
        Recipe(1, "trained on the first 300 loans there were", rows_share=300 / 2448),
        Recipe(2, "trained on all 2,448 loans"),
        Recipe(3, "retrained after a bad join: half the labels are one row off", misjoined_from=0.5),
        Recipe(4, "sound, trained as v2 was, but its pods fail one request in five", seed=1),
    )
}


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted pipeline, the rows it learned from, and its accuracy and AUC on the evaluation rows."""

    recipe: Recipe
    pipeline: Pipeline
    rows: int
    accuracy: float
    auc: float


def train(recipe: Recipe, parts: Parts) -> Trained:
    """Fit StandardScaler + MLP (256, 256): seconds on one core."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = learnt_rows(recipe, parts)
    network = MLPClassifier((256, 256), alpha=3.0, max_iter=40, random_state=recipe.seed)
    pipeline = make_pipeline(StandardScaler(), network)
    with warnings.catch_warnings():
        # 40 rounds are where it does best on rows it has not seen; scikit-learn would go on.
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline.fit(features, labels)
    return Trained(recipe, pipeline, len(labels), *_scores(pipeline, parts))


def learnt_rows(recipe: Recipe, parts: Parts) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Features [N, 29] and labels [N] the recipe trains on."""
    table = pd.read_parquet(parts.train)
    table = table.head(round(recipe.rows_share * len(table)))
    features, labels = table[list(FEATURES)].to_numpy(np.float32), table[LABEL].to_numpy(np.int64)
    right, misjoined = np.split(labels, [round(recipe.misjoined_from * len(labels))])
    return features, np.concatenate([right, np.roll(misjoined, 1)])


def register(trained: Trained, *, tracking_url: str) -> int:
    """Log the run and its model to MLflow, register it, and return the version's number.

    Raises `Permanent` when the registry already holds other versions, so that it is not `recipe.version`.
    """
    import mlflow
    from mlflow.models import infer_signature

    mlflow.set_tracking_uri(tracking_url)
    mlflow.set_experiment(EXPERIMENT)
    example = np.zeros((1, len(FEATURES)), np.float32)
    with mlflow.start_run(run_name=f"{MODEL} v{trained.recipe.version}"):
        mlflow.log_params(_params(trained))
        mlflow.log_metrics({"accuracy": trained.accuracy, "auc": trained.auc})
        info = mlflow.sklearn.log_model(
            trained.pipeline,
            name="model",
            registered_model_name=MODEL,
            signature=infer_signature(example, trained.pipeline.predict(example)),
            skops_trusted_types=list(TRUSTED_TYPES),
            pip_requirements=["scikit-learn", "skops"],
        )
    number = int(info.registered_model_version or 0)
    describe(MODEL, trained.recipe.version, number, trained.recipe.story)
    return number


def _params(trained: Trained) -> dict[str, Any]:
    recipe = trained.recipe
    return {
        "rows": trained.rows,
        "seed": recipe.seed,
        "misjoined_from": recipe.misjoined_from,
        "hidden": "256-256",
        "alpha": 3.0,
    }


def _scores(pipeline: Pipeline, parts: Parts) -> tuple[float, float]:
    from sklearn.metrics import accuracy_score, roc_auc_score

    table = pd.read_parquet(parts.evaluation)
    bad = pipeline.predict_proba(table[list(FEATURES)].to_numpy(np.float32))[:, 1]
    return (
        float(accuracy_score(table[LABEL], bad > 0.5)),
        float(roc_auc_score(table[LABEL], bad)),
    )


def main(arguments: list[str] | None = None) -> None:
    """Prepare the data if need be, train the named versions, wait for MLflow, register them in order."""
    parser = argparse.ArgumentParser(prog="python -m demo.models", description=__doc__)
    parser.add_argument("versions", nargs="+", type=int, choices=sorted(RECIPES))
    asked = parser.parse_args(arguments)
    be_quiet()
    home = DemoHome.of()
    parts = Parts.under(home.data / MODEL)
    if not parts.traffic.exists():
        prepare(home.data / MODEL)
    # All of them first: the registry comes up meanwhile.
    trained = [train(RECIPES[version], parts) for version in asked.versions]
    wait_for_registry(home)
    for one in trained:
        number = register(one, tracking_url=home.mlflow_url)
        line = {"version": number, "accuracy": one.accuracy, "auc": one.auc, "rows": one.rows}
        print(json.dumps(line), flush=True)  # noqa: T201 - the caller reads it


if __name__ == "__main__":
    main()
