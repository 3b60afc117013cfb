"""What probabilities are worth: log loss, and calibration error."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from model_store.metrics.base import Needs, Prediction, Task, TooFewRows, Truth
from model_store.metrics.intervals import Bounds, mean_bounds
from model_store.metrics.kinds import Loss, MetricKind, Shares, classes_of, probabilities_of

Array = np.ndarray[Any, Any]
BINS = 10


class LogLoss(Shares, Loss):
    """Minus the logarithm of the probability of what is so; of a multilabel model the mean over labels.

    A probability of 0 counts as the smallest step of float64 (a loss of 36), as scikit-learn has it.
    """

    name = "log_loss"
    tasks: frozenset[Task] = frozenset({"binary", "multiclass", "multilabel"})
    needs: Needs = "scores"

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.log_loss."""
        from sklearn.metrics import log_loss

        classes, scores = classes_of(truth), self._normal(truth, said)
        if classes.ndim == 1:
            return float(log_loss(classes, scores, labels=list(range(scores.shape[1]))))
        return float(
            np.mean([log_loss(y, p, labels=[0, 1]) for y, p in zip(classes.T, scores.T, strict=True)])
        )

    def losses(self, truth: Truth, said: Prediction) -> Array:
        """[N]."""
        classes, scores = classes_of(truth), self._normal(truth, said)
        if classes.ndim == 2:
            of_truth = np.where(classes == 1, scores, 1 - scores)
        else:
            of_truth = scores[np.arange(len(classes)), classes][:, None]
        least = np.finfo(np.float64).eps
        return np.asarray(-np.log(np.clip(of_truth, least, 1 - least)).mean(axis=1))

    def _normal(self, truth: Truth, said: Prediction) -> Array:
        """float32 probabilities add up to 1 within 1e-7, and scikit-learn asks for 1e-8."""
        scores = probabilities_of(said, self.name)
        if classes_of(truth).ndim == 2:
            return scores
        return np.asarray(scores / np.maximum(scores.sum(axis=1, keepdims=True), np.finfo(float).tiny))


class Binned(NamedTuple):
    """[N] each: what happened minus the probability given to it, and the bin of that probability."""

    residual: Array
    bin: Array

    def gaps(self) -> Array:
        """[BINS] sums of residuals."""
        return np.bincount(self.bin, weights=self.residual, minlength=BINS)

    def error(self) -> float:
        """Expected calibration error."""
        return float(np.abs(self.gaps()).sum() / len(self.bin))


class CalibrationError(MetricKind):
    """Expected calibration error: 10 bins of equal width, the gap between mean probability and share, each
    weighted by its rows (Naeini et al., AAAI 2015). Binary: the probability of the positive class, as in
    sklearn.calibration.calibration_curve. Multiclass: the largest probability, against whether that class is
    right (Guo et al., ICML 2017).

    Two upper bounds, each at half the risk, of which the lower one holds. Of models that answer nearly alike:
    the error changes at most by how far residuals move, and twice the residual of rows that change the bin.
    Of others: the error in a sample is too large by chance, and more so for the better calibrated one; so the
    reference's is taken with each row's sign from the other rows, which makes it too small.
    """

    name = "calibration_error"
    tasks: frozenset[Task] = frozenset({"binary", "multiclass"})
    needs: Needs = "scores"
    higher_is_better = False

    def value(self, truth: Truth, said: Prediction) -> float:
        """scikit-learn has none: its calibration_curve, weighted by the rows of each bin."""
        return self.binned(truth, said).error()

    def blind(self, truth: Truth) -> Prediction | None:
        """None: the shares of the classes are perfectly calibrated."""
        return None

    def bounds(self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float) -> Bounds:
        """Of candidate minus reference."""
        before, after = self.binned(truth, reference), self.binned(truth, candidate)
        if len(before.bin) < 2 * BINS:
            raise TooFewRows(f"{len(before.bin)} rows are too few for {BINS} bins")
        both = (1 + confidence) / 2
        return Bounds(-_most(after, before, both), _most(before, after, both))

    def binned(self, truth: Truth, said: Prediction) -> Binned:
        """Residuals and bins of one model."""
        classes, scores = classes_of(truth), probabilities_of(said, self.name)
        if truth.class_count == 2:
            probability, happened = scores[:, 1], classes == 1
        else:
            probability, happened = scores.max(axis=1), classes == scores.argmax(axis=1)
        inner = np.linspace(0, 1, BINS + 1)[1:-1]
        return Binned(happened - probability, np.searchsorted(inner, probability))


def _most(before: Binned, after: Binned, confidence: float) -> float:
    """Upper bound of the error of `after` minus that of `before`."""
    moved = np.abs(after.residual - before.residual)
    moved = moved + 2 * np.abs(after.residual) * (before.bin != after.bin)
    alike = mean_bounds(moved, confidence, harm=1.0).upper
    too_large = np.sign(after.gaps())[after.bin] * after.residual
    too_small = np.sign(before.gaps()[before.bin] - before.residual) * before.residual
    return min(alike, mean_bounds(too_large - too_small, confidence, harm=1.0).upper)


METRICS = (LogLoss(), CalibrationError())
