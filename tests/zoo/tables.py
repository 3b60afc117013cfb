"""Rows as people really have them: rare values, gaps, copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tests.zoo.classifiers import GATES, NUMBERS, estimator, histogram_boosting, logistic, scored
from tests.zoo.world import Kind, Made, saved_sklearn


def with_gaps(folder: Path, *, nullable: bool) -> Made:
    """A model that takes missing values, and a file that has some."""

    def holed(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(debt=frame.debt.where(np.arange(len(frame)) % 10 > 0))

    made = estimator(histogram_boosting, folder / "whole")
    train = holed(made.calibration)
    model = histogram_boosting().fit(train[NUMBERS], train.y)
    evaluation = holed(made.evaluation)
    saved = saved_sklearn(folder / "model", model, train[NUMBERS])
    spec = {"gates": GATES, "serving": {"finite_inputs": not nullable}}
    if nullable:
        spec["data"] = {"columns": {"debt": {"nullable": True}}}
    numbers = scored(model, evaluation, "y", NUMBERS) if nullable else {}
    return Made(saved, "sklearn", evaluation, train, "y", numbers, spec)


def copies(folder: Path) -> Made:
    """A fifth of the evaluation rows stand in the calibration file as well."""
    made = estimator(logistic, folder)
    calibration = pd.concat([made.calibration, made.evaluation.head(140)])
    return Made(made.model, "sklearn", made.evaluation, calibration, "y", {}, made.spec)


def sliced(folder: Path, *, values: int) -> Made:
    """A slice column of so many values."""
    made = estimator(logistic, folder)
    frames = [
        frame.assign(city=[f"city {place % values}" for place in range(len(frame))])
        for frame in (made.evaluation, made.calibration)
    ]
    gates = {**GATES, "slices": {"max_drop": 0.2, "min_rows": 50}}
    spec = {"gates": gates, "data": {"slices": ["city"]}}
    return Made(made.model, "sklearn", frames[0], frames[1], "y", made.numbers, spec)


KINDS = [
    Kind(
        "missing values that nobody allowed",
        lambda f: with_gaps(f, nullable=False),
        "refused",
        "column `debt` has 70 missing values",
    ),
    Kind("missing values", lambda f: with_gaps(f, nullable=True), "published"),
    Kind("copies of calibration rows", copies, "refused", "max_leaked_share"),
    Kind("slices", lambda f: sliced(f, values=4), "published"),
    Kind(
        "a slice of 600 values",
        lambda f: sliced(f, values=600),
        "refused",
        "max_slice_values|different values",
    ),
]
