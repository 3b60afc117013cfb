"""What every metric is given, and what it says of two models on the same rows.

A metric knows nothing of tensors, files or specs: whoever calls it has already read labels and answers in one
language (`Truth` and `Prediction` count classes alike), and turns its `Comparison` into a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from model_store.types import Task

__all__ = ["Comparison", "Metric", "Needs", "Prediction", "Task", "TooFewRows", "Truth"]

Array = np.ndarray[Any, Any]

Needs = Literal["decisions", "scores", "values", "any"]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What the rows really are. What a task does not have is None.

    `classes`: [N] int64 places in the list of classes (binary: 1 is the positive one; multilabel: [N, L] 0 or
    1). `class_count`: how many classes there are, whether or not these rows hold all. `values`: [N] float64,
    what a regression should say, or how relevant a ranked row is. `groups`: [N] int64, which rows are ranked
    together.
    """

    classes: Array | None = None
    class_count: int = 0
    values: Array | None = None
    groups: Array | None = None

    def __len__(self) -> int:
        known = self.classes if self.classes is not None else self.values
        return 0 if known is None else len(known)

    def take(self, rows: Array) -> Truth:
        """The rows where this mask is true, or at these indices."""
        classes, values, groups = (_rows(a, rows) for a in (self.classes, self.values, self.groups))
        return Truth(classes, self.class_count, values, groups)


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What one model says of the rows. What it does not say is None.

    `decisions`: as `Truth.classes`. `scores`: float64, larger is surer: [N, C] a column for each class
    (binary: two), [N, L] of a multilabel model, [N] of a ranking. `are_probabilities`: the scores are between
    0 and 1 and mean it. `values`: [N] float64 of a regression.
    """

    decisions: Array | None = None
    scores: Array | None = None
    are_probabilities: bool = False
    values: Array | None = None

    def take(self, rows: Array) -> Prediction:
        """The rows where this mask is true, or at these indices."""
        decisions, scores, values = (_rows(a, rows) for a in (self.decisions, self.scores, self.values))
        return Prediction(decisions, scores, self.are_probabilities, values)


def _rows(array: Array | None, rows: Array) -> Array | None:
    return None if array is None else array[rows]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models by one metric. `lower` and `upper`: one-sided bounds, each at the confidence asked for,
    of candidate minus reference, or for a `relative` metric of candidate / reference - 1.

    No interval may have zero width because nothing happens to differ in these rows (docs/decisions/0017).
    """

    reference: float
    candidate: float
    lower: float
    upper: float


class TooFewRows(ValueError):  # noqa: N818 - what is wrong, before anyone says of which slice or file
    """The rows cannot say anything by this metric: no positives, one row a group, too few to estimate."""


class Metric(Protocol):
    """One file in this package, or an entry point in the group `slipway.metrics`.

    `relative`: differences are shares of the reference's value, as for errors in units of their own.
    Whoever calls it has refused NaN and infinity before.
    """

    name: str
    tasks: frozenset[Task]
    needs: Needs
    higher_is_better: bool
    relative: bool

    def value(self, truth: Truth, said: Prediction) -> float:
        """The metric as scikit-learn computes it. Raises `TooFewRows`."""
        ...

    def blind(self, truth: Truth) -> Prediction | None:
        """The best answer that looks at no input: majority class, median, random order.

        None where such an answer can be perfect (recall of a model that always says yes, calibration): to
        beat it says nothing, another metric has to. `compare` with it says whether a model is better by more
        than chance.
        """
        ...

    def trivial(self, truth: Truth) -> float | None:
        """The value of the blind answer, None where there is none."""
        ...

    def compare(
        self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float
    ) -> Comparison:
        """Paired, on the same rows. Raises `TooFewRows`."""
        ...
