"""How a model decides, as far as comparing it with itself before and after quantizing needs it.

The search asks only whether the same rows are still decided alike; what a decision means, and whether it is
right, is for the gates (`model_store.gates.reading`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store.errors import Permanent

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]


class Unreadable(Permanent):
    """The outputs are not those of a classifier."""


@dataclass(frozen=True, slots=True)
class Readout:
    """Which output holds the label (if any) and which the scores (if any).

    Found once on the original model's answers and then applied to every candidate, so that all are read
    alike. `positive` is the spec's positive class; `positive_column` its column among the scores.
    `threshold` decides a single score column: 0.5 for probabilities, 0 for logits.
    """

    label: str | None
    scores: str | None
    positive: str
    positive_column: int
    threshold: float

    @classmethod
    def find(cls, outputs: Outputs, positive: str | int = 1) -> Readout:
        """From the original's outputs. The label output is a vector of integers or text; scores are floats
        [N], [N, 1] or [N, C]; of several, one named like probabilities wins.

        Raises `Permanent` (Unreadable) if there is neither.
        """
        label = next((name for name, values in outputs.items() if _is_label(values)), None)
        floats = [name for name, values in outputs.items() if values.dtype.kind == "f" and values.ndim <= 2]
        scores = min(floats, key=lambda name: ("prob" not in name.lower(), floats.index(name)), default=None)
        if label is None and scores is None:
            seen = ", ".join(f"{name} {values.dtype}{list(values.shape)}" for name, values in outputs.items())
            raise Unreadable(
                f"no output looks like a label or scores: {seen}",
                remedy="a classifier answers labels [N] (integers or text) or float scores [N, classes]",
            )
        column = _positive_column(outputs, label, scores, str(positive))
        return cls(label, scores, str(positive), column, _threshold(outputs, scores))

    def decisions(self, outputs: Outputs) -> Array:
        """Class numbers [N] int64, as `Dataset.labels` counts them: text is 1 where it equals `positive`."""
        if self.label is None:
            return np.asarray(np.argmax(self.class_scores(outputs), axis=1), np.int64)
        values = outputs[self.label].reshape(-1)
        if values.dtype.kind in "iub":
            return np.asarray(values, np.int64)
        return np.asarray(values.astype(str) == self.positive, np.int64)

    def class_scores(self, outputs: Outputs) -> Array:
        """Scores [N, C] float64. One column becomes two: of the negative and the positive class."""
        if self.scores is None:
            raise Unreadable(
                "the model answers no scores", remedy="export it with probabilities, or leave out gates.auc"
            )
        values = outputs[self.scores].astype(np.float64).reshape(len(outputs[self.scores]), -1)
        return values if values.shape[1] > 1 else np.hstack([2 * self.threshold - values, values])

    def positive_scores(self, outputs: Outputs) -> Array:
        """How sure the model is of the positive class: [N] float64."""
        return np.asarray(self.class_scores(outputs)[:, self.positive_column])


def _is_label(values: Array) -> bool:
    is_vector = values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)
    return is_vector and values.dtype.kind in "iubOUS"


def _threshold(outputs: Outputs, scores: str | None) -> float:
    if scores is None:
        return 0.5
    values = outputs[scores][np.isfinite(outputs[scores])]
    return 0.5 if values.size == 0 or (values.min() >= 0 and values.max() <= 1) else 0.0


def _positive_column(outputs: Outputs, label: str | None, scores: str | None, positive: str) -> int:
    """Where the model's own labels say it, there; else the column of that number; else the last."""
    width = 1 if scores is None else outputs[scores].reshape(len(outputs[scores]), -1).shape[1]
    if width == 1:
        return 1
    if label is not None and scores is not None:
        says_positive = outputs[label].reshape(-1).astype(str) == positive
        winners = np.argmax(outputs[scores][says_positive], axis=1)
        if winners.size:
            return int(np.bincount(winners).argmax())
    return int(positive) if positive.isdigit() and int(positive) < width else width - 1
