"""The kinds of metric there are, by how two models are compared. A metric says what a row contributes.

- `Share`: the share of rows that are right. Tango's score interval.
- `Loss`: an error, the mean of what rows lose. Ratio of two means.
- `Gain`: the mean of what rows or groups gain, in units of its own. Mean difference.
- `Smooth`: a ratio of counts, or an area. Mean difference of what each row contributes (influence function).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from model_store.errors import Permanent
from model_store.metrics.base import Comparison, Needs, Prediction, Task, TooFewRows, Truth
from model_store.metrics.intervals import Bounds, mean_bounds, ratio_bounds, share_bounds, typical_size

Array = np.ndarray[Any, Any]

# Where the reference's loss is below this share of the blind answer's, both get what is missing to it: a
# model that is right to the last digit could otherwise not be converted, whatever that rounds to.
LEAST_ERROR = 1e-3


class MetricKind(ABC):
    """What all kinds share: the value, the blind answer, and its value."""

    name: str
    tasks: frozenset[Task]
    needs: Needs = "decisions"
    higher_is_better: bool = True
    relative: bool = False

    @abstractmethod
    def value(self, truth: Truth, said: Prediction) -> float:
        """As scikit-learn computes it."""

    @abstractmethod
    def blind(self, truth: Truth) -> Prediction | None:
        """See `Metric.blind`."""

    @abstractmethod
    def bounds(self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float) -> Bounds:
        """Of candidate minus reference, or candidate / reference - 1 where `relative`."""

    def trivial(self, truth: Truth) -> float | None:
        """The value of the blind answer."""
        answer = self.blind(truth)
        return None if answer is None else self.value(truth, answer)

    def compare(
        self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float
    ) -> Comparison:
        """Paired, on the same rows. Raises `TooFewRows`."""
        values = self.value(truth, reference), self.value(truth, candidate)
        return Comparison(*values, *self.bounds(truth, reference, candidate, confidence))


class Share(MetricKind):
    """The share of the rows that count which are right."""

    @abstractmethod
    def right(self, truth: Truth, said: Prediction) -> Array:
        """[n] bool: of the rows that count, which are right. Which count depends on the truth alone."""

    def bounds(self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float) -> Bounds:
        """Tango's, on the rows that count."""
        return share_bounds(self.right(truth, reference), self.right(truth, candidate), confidence)


class Loss(MetricKind):
    """The mean of what rows lose, compared as a share of what the reference loses.

    A row that these rows do not show is taken to lose at most as much as the worst one of either model. Of a
    model whose errors are a hundredth of the targets' spread that is little: R2 asks for more.
    """

    higher_is_better = False
    relative = True

    @abstractmethod
    def losses(self, truth: Truth, said: Prediction) -> Array:
        """[N] float64, at least 0."""

    def bounds(self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float) -> Bounds:
        """Of candidate / reference - 1, from the ratio of the means."""
        of_reference, of_candidate = self.losses(truth, reference), self.losses(truth, candidate)
        of_blind = self._of_blind(truth)
        missing = self._missing(of_blind, of_reference)
        harm = max(float(of_reference.max()), float(of_candidate.max()))
        lower, upper = ratio_bounds(of_candidate + missing, of_reference + missing, confidence, harm=harm)
        return Bounds(self.scaled(lower) - 1, self.scaled(upper) - 1)

    def scaled(self, ratio: float) -> float:
        """From the ratio of mean losses to that of values (RMSE: the root)."""
        return ratio

    def _of_blind(self, truth: Truth) -> float:
        answer = self.blind(truth)
        return float(self.losses(truth, answer).mean()) if answer is not None else 0.0

    def _missing(self, of_blind: float, of_reference: Array) -> float:
        if (least := max(LEAST_ERROR * of_blind, float(of_reference.mean()))) == 0:
            raise TooFewRows(f"all rows ask for the same answer, so {self.name} has nothing to be a share of")
        return least - float(of_reference.mean())


class Gain(MetricKind):
    """The mean of what rows or groups gain. `harm`: what the best of them has to lose."""

    @abstractmethod
    def gains(self, truth: Truth, said: Prediction) -> Array:
        """[n] float64, one a row or a group; which count depends on the truth alone."""

    def bounds(self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float) -> Bounds:
        """Of the mean difference."""
        return gain_bounds(self.gains(truth, reference), self.gains(truth, candidate), confidence)


def gain_bounds(reference: Array, candidate: Array, confidence: float) -> Bounds:
    """Of the mean of candidate - reference, from what rows or groups gain ([n] both)."""
    both = np.concatenate([reference, candidate])
    harm = max(float(np.abs(both).max()), float(np.ptp(both)))
    return mean_bounds(candidate - reference, confidence, harm=harm)


class Part(NamedTuple):
    """A statistic that is a smooth function of means: its value, and what each row contributes to it."""

    value: float
    influence: Array


class Smooth(MetricKind):
    """A ratio of counts, or an area. `harm`: how far one row can move it, times the number of rows."""

    @abstractmethod
    def part(self, truth: Truth, said: Prediction) -> Part:
        """The value, and [N] contributions with mean 0 (the influence function)."""

    @abstractmethod
    def harm(self, truth: Truth, reference: Prediction) -> float:
        """Of a row that turns from right to wrong."""

    def bounds(self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float) -> Bounds:
        """Of the difference, linear in each row's contribution."""
        before, after = self.part(truth, reference), self.part(truth, candidate)
        changes = after.influence - before.influence
        harm = max(self.harm(truth, reference), typical_size(changes[np.abs(changes) > 0]))
        return mean_bounds(changes + after.value - before.value, confidence, harm=harm)


class Decided:
    """The class most rows have, as a blind answer."""

    def blind(self, truth: Truth) -> Prediction | None:
        """Every row the majority class; of a multilabel model, each label as most rows have it."""
        classes = classes_of(truth)
        if classes.ndim == 2:
            common = np.median(classes, axis=0) > 0.5
            return Prediction(decisions=np.broadcast_to(common.astype(np.int64), classes.shape))
        majority = int(np.bincount(classes, minlength=truth.class_count).argmax())
        return Prediction(decisions=np.full(len(classes), majority))


class Shares:
    """The share of each class, as scores of a blind answer."""

    def blind(self, truth: Truth) -> Prediction | None:
        """[N, C] of the same shares in every row."""
        classes = classes_of(truth)
        if classes.ndim == 2:
            shares = classes.mean(axis=0)
        else:
            shares = np.bincount(classes, minlength=truth.class_count) / len(classes)
        return Prediction(scores=np.tile(shares, (len(classes), 1)), are_probabilities=True)


def classes_of(truth: Truth) -> Array:
    """[N] or [N, L] int64. Raises `TooFewRows` without rows."""
    if truth.classes is None or len(truth.classes) == 0:
        raise TooFewRows("no rows with a class")
    return truth.classes


def values_of(truth: Truth) -> Array:
    """[N] float64. Raises `TooFewRows` without rows."""
    if truth.values is None or len(truth.values) == 0:
        raise TooFewRows("no rows with a value")
    return truth.values


def decisions_of(said: Prediction, name: str) -> Array:
    """[N] or [N, L] int64. Raises `Permanent` if the model decides nothing."""
    if said.decisions is None:
        raise Permanent(f"{name} needs decisions, and the model gives none", remedy=_OUTPUTS)
    return said.decisions


def scores_of(said: Prediction, name: str) -> Array:
    """[N, C], [N, L] or [N] float64. Raises `Permanent` if the model answers labels alone."""
    if said.scores is None:
        raise Permanent(f"{name} needs scores, and the model answers only labels", remedy=_OUTPUTS)
    return said.scores


def probabilities_of(said: Prediction, name: str) -> Array:
    """[N, C] or [N, L] float64. Raises `Permanent` for scores that are no probabilities."""
    scores = scores_of(said, name)
    if not said.are_probabilities:
        raise Permanent(f"{name} needs probabilities, and the scores are none", remedy=_OUTPUTS)
    return scores


def predicted_of(said: Prediction, name: str) -> Array:
    """[N] float64. Raises `Permanent` if the model is no regressor."""
    if said.values is None:
        raise Permanent(f"{name} needs the value a regression answers, and there is none", remedy=_OUTPUTS)
    return said.values


_OUTPUTS = "gate another metric, or say in the spec which output is what"
