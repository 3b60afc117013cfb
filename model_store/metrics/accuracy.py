"""Shares of rows that are right: accuracy, recall, top k; and the mean of such shares over classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from model_store.errors import Permanent
from model_store.metrics.base import Needs, Prediction, Task, TooFewRows, Truth
from model_store.metrics.intervals import Bounds, share_bounds, sum_bounds
from model_store.metrics.kinds import Decided, MetricKind, Share, Shares, classes_of, decisions_of, scores_of
from model_store.metrics.registry import Family

Array = np.ndarray[Any, Any]


class Accuracy(Decided, Share):
    """Share of rows decided rightly; of a multilabel model, of rows with every label right."""

    name = "accuracy"
    tasks: frozenset[Task] = frozenset({"binary", "multiclass", "multilabel"})

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.accuracy_score."""
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(classes_of(truth), decisions_of(said, self.name)))

    def right(self, truth: Truth, said: Prediction) -> Array:
        """[N] bool."""
        same = classes_of(truth) == decisions_of(said, self.name)
        return np.asarray(same.all(axis=1) if same.ndim == 2 else same)


class Recall(Share):
    """Share of the positive rows that are found. Only they count."""

    name = "recall"
    tasks: frozenset[Task] = frozenset({"binary"})

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.recall_score."""
        from sklearn.metrics import recall_score

        self.right(truth, said)
        return float(recall_score(classes_of(truth), decisions_of(said, self.name)))

    def right(self, truth: Truth, said: Prediction) -> Array:
        """[positives] bool."""
        positive = classes_of(truth) == 1
        if not positive.any():
            raise TooFewRows(f"none of {len(positive)} rows is positive, so there is no recall")
        return np.asarray(decisions_of(said, self.name)[positive] == 1)

    def blind(self, truth: Truth) -> Prediction | None:
        """None: who always says yes finds everything. `balanced_accuracy` tells a model from that."""
        return None


class BalancedAccuracy(Decided, MetricKind):
    """The mean over the classes that occur of the share found of each. Tango's for each class, and MOVER."""

    name = "balanced_accuracy"
    tasks: frozenset[Task] = frozenset({"binary", "multiclass"})

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.recall_score, macro, over the classes in the truth."""
        from sklearn.metrics import recall_score

        classes = classes_of(truth)
        decided = decisions_of(said, self.name)
        return float(recall_score(classes, decided, labels=np.unique(classes), average="macro"))

    def bounds(self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float) -> Bounds:
        """The classes are different rows, so their differences are independent."""
        classes = classes_of(truth)
        present = np.unique(classes)
        if len(present) < 2:
            raise TooFewRows(f"all {len(classes)} rows are of one class: {self.name} needs two")
        right = [classes == decisions_of(said, self.name) for said in (reference, candidate)]
        of_class = [tuple(r[classes == each] for r in right) for each in present]
        differences = [float(after.mean() - before.mean()) for before, after in of_class]
        parts = [share_bounds(before, after, confidence) for before, after in of_class]
        return sum_bounds(differences, parts, [1 / len(present)] * len(present))


class TopK(Shares, Share):
    """Share of rows whose class is among the k with the largest scores."""

    tasks: frozenset[Task] = frozenset({"multiclass"})
    needs: Needs = "scores"

    def __init__(self, k: str) -> None:
        if not k.isdigit() or int(k) < 1:
            raise ValueError(f"k is a whole number from 1, not {k}")
        self.k = int(k)
        self.name = f"top_{self.k}"

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.top_k_accuracy_score."""
        return float(self.right(truth, said).mean())

    def right(self, truth: Truth, said: Prediction) -> Array:
        """[N] bool; of equal scores those of later classes come first, as scikit-learn has it."""
        classes, scores = classes_of(truth), scores_of(said, self.name)
        if self.k >= scores.shape[1]:
            raise Permanent(
                f"{self.name} is always right: there are {scores.shape[1]} classes",
                remedy=f"gate top_{max(1, scores.shape[1] - 1)} or less",
            )
        best = np.argsort(scores, axis=1, kind="mergesort")[:, ::-1][:, : self.k]
        return np.asarray((best == classes[:, None]).any(axis=1))


METRICS = (
    Accuracy(),
    Recall(),
    BalancedAccuracy(),
    Family("top_<k>", TopK.tasks, TopK),
)
