"""Regressors of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.zoo.world import ROWS, Kind, Made, saved_sklearn

INPUTS = ["a", "b", "c"]


def rows(count: int, seed: int, *, whole: bool = False) -> pd.DataFrame:
    """Days, 0 to 30, or any number."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3))
    y = 15 + 6 * x[:, 0] + 2 * np.abs(x[:, 1]) + rng.normal(size=count)
    return pd.DataFrame(x, columns=INPUTS).assign(
        days=np.clip(np.round(y), 0, 30).astype(int) if whole else y
    )


def regressor(folder: Path, *, build: Callable[[], Any], whole: bool = False, **gates: Any) -> Made:
    """Judged by its mean absolute error, and whatever else is gated."""
    from sklearn import metrics

    train, evaluation, calibration = (rows(n, i, whole=whole) for i, n in enumerate((900, ROWS, 200)))
    model = build().fit(train[INPUTS], train.days)
    said = model.predict(evaluation[INPUTS])
    ours = {
        "mae": metrics.mean_absolute_error,
        "rmse": metrics.root_mean_squared_error,
        "r2": metrics.r2_score,
        "pinball_0.9": partial(metrics.mean_pinball_loss, alpha=0.9),
    }
    gates = gates or {"mae": {"max_increase": 0.05}}
    numbers = {name: float(ours[name](evaluation.days, said)) for name in gates}
    saved = saved_sklearn(folder / "model", model, train[INPUTS])
    return Made(saved, "sklearn", evaluation, calibration, "days", numbers, {"gates": gates})


def noise_after_good(folder: Path) -> Made:
    """The successor was trained on shuffled days."""
    good = regressor(folder / "good", build=linear, whole=True)
    train = rows(900, 0, whole=True)
    model = linear().fit(train[INPUTS], np.random.default_rng(0).permutation(train.days))
    saved = saved_sklearn(folder / "noise", model, train[INPUTS])
    gates = {"mae": {"max_increase": 0.05}, "champion": {"max_increase": 0.1}, "must_beat_trivial": False}
    return Made(saved, "sklearn", good.evaluation, good.calibration, "days", {}, {"gates": gates}, good.model)


def no_classes(folder: Path) -> Made:
    """Gates of a classifier."""
    made = regressor(folder, build=linear)
    return Made(
        made.model, "sklearn", made.evaluation, made.calibration, "days", {},
        {"gates": {"accuracy": {"max_drop": 0.01}}},
    )  # fmt: skip


def linear() -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression()


def forest() -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(15, max_depth=8, random_state=0)


def quantile() -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(loss="quantile", alpha=0.9, n_estimators=40, random_state=0)


def net() -> Any:
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(),
        MLPRegressor(hidden_layer_sizes=(32,), random_state=0, early_stopping=True, max_iter=600),
    )


KINDS = [
    Kind("linear regression", partial(regressor, build=linear), "published"),
    Kind("linear regression of whole days", partial(regressor, build=linear, whole=True), "published"),
    Kind("random forest of numbers", partial(regressor, build=forest, r2={"max_drop": 0.01}), "published"),
    Kind("the 90 % quantile", partial(regressor, build=quantile, **{"pinball_0.9": {"max_increase": 0.1}}),
         "published"),
    Kind("neural net of numbers", partial(regressor, build=net, rmse={"max_increase": 0.05}), "published"),
    Kind("noise after a good regression", noise_after_good, "blocked", "mae against champion"),
    Kind("a regression by accuracy", no_classes, "refused", "task is regression .*accuracy cannot judge it"),
]  # fmt: skip
