"""Errors of a regression: RMSE, MAE, MAPE, pinball; and R2."""

from __future__ import annotations

from typing import Any

import numpy as np

from model_store.errors import Permanent
from model_store.metrics.base import Needs, Prediction, Task, TooFewRows, Truth
from model_store.metrics.intervals import Bounds, ratio_bounds
from model_store.metrics.kinds import Loss, MetricKind, predicted_of, values_of
from model_store.metrics.registry import Family

Array = np.ndarray[Any, Any]
REGRESSION: frozenset[Task] = frozenset({"regression"})


class _OfValues(Loss):
    tasks = REGRESSION
    needs: Needs = "values"

    def constant(self, values: Array) -> float:
        """The one answer to every row that loses least."""
        return float(np.median(values))

    def blind(self, truth: Truth) -> Prediction | None:
        """Every row the same."""
        values = values_of(truth)
        return Prediction(values=np.full(len(values), self.constant(values)))


class RMSE(_OfValues):
    """Root of the mean squared error. Compared by the squares."""

    name = "rmse"

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.root_mean_squared_error."""
        from sklearn.metrics import root_mean_squared_error

        return float(root_mean_squared_error(values_of(truth), predicted_of(said, self.name)))

    def losses(self, truth: Truth, said: Prediction) -> Array:
        """[N] squared errors."""
        return np.asarray((values_of(truth) - predicted_of(said, self.name)) ** 2)

    def scaled(self, ratio: float) -> float:
        """From squares to roots; a bound below 0 is no ratio of squares."""
        return float(np.sqrt(max(ratio, 0.0)))

    def constant(self, values: Array) -> float:
        """The mean."""
        return float(values.mean())


class MAE(_OfValues):
    """Mean absolute error."""

    name = "mae"

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.mean_absolute_error."""
        from sklearn.metrics import mean_absolute_error

        return float(mean_absolute_error(values_of(truth), predicted_of(said, self.name)))

    def losses(self, truth: Truth, said: Prediction) -> Array:
        """[N] absolute errors."""
        return np.asarray(np.abs(values_of(truth) - predicted_of(said, self.name)))


class MAPE(MAE):
    """Mean absolute error as a share of the target. Refused where a target is 0: scikit-learn's value is
    then the error times 4.5e15."""

    name = "mape"

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.mean_absolute_percentage_error."""
        from sklearn.metrics import mean_absolute_percentage_error

        self._refuse_zeros(truth)
        return float(mean_absolute_percentage_error(values_of(truth), predicted_of(said, self.name)))

    def losses(self, truth: Truth, said: Prediction) -> Array:
        """[N] shares."""
        self._refuse_zeros(truth)
        return super().losses(truth, said) / np.abs(values_of(truth))

    def constant(self, values: Array) -> float:
        """The median, each row weighing as much as its error counts."""
        weights = 1 / np.maximum(np.abs(values), np.finfo(float).eps)
        order = np.argsort(values)
        half = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
        return float(values[order][min(int(half), len(values) - 1)])

    def _refuse_zeros(self, truth: Truth) -> None:
        zeros = int((values_of(truth) == 0).sum())
        if zeros:
            raise Permanent(
                f"mape divides by the target, and {zeros} of {len(truth)} rows have the target 0",
                remedy="gate mae, rmse or r2 instead",
            )


class Pinball(_OfValues):
    """Pinball loss of a model that answers the quantile alpha."""

    def __init__(self, alpha: str = "0.5") -> None:
        self.alpha = float(alpha)
        if not 0 < self.alpha < 1:
            raise ValueError(f"the quantile is between 0 and 1, not {alpha}")
        self.name = f"pinball_{alpha}"

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.mean_pinball_loss."""
        from sklearn.metrics import mean_pinball_loss

        predicted = predicted_of(said, self.name)
        return float(mean_pinball_loss(values_of(truth), predicted, alpha=self.alpha))

    def losses(self, truth: Truth, said: Prediction) -> Array:
        """[N]: alpha times what is missing, 1 - alpha times what is too much."""
        missing = values_of(truth) - predicted_of(said, self.name)
        return np.asarray(np.maximum(self.alpha * missing, (self.alpha - 1) * missing))

    def constant(self, values: Array) -> float:
        """The quantile."""
        return float(np.quantile(values, self.alpha, method="inverted_cdf"))


class R2(MetricKind):
    """Share of the targets' variance that is explained. The difference of two is one of squared errors.

    A row that these rows do not show is taken to be answered as without looking, or as the worst one.
    """

    name = "r2"
    tasks = REGRESSION
    needs: Needs = "values"

    def value(self, truth: Truth, said: Prediction) -> float:
        """sklearn.metrics.r2_score."""
        from sklearn.metrics import r2_score

        self._spread(truth)
        return float(r2_score(values_of(truth), predicted_of(said, self.name)))

    def blind(self, truth: Truth) -> Prediction | None:
        """The mean: 0."""
        values = values_of(truth)
        return Prediction(values=np.full(len(values), values.mean()))

    def bounds(self, truth: Truth, reference: Prediction, candidate: Prediction, confidence: float) -> Bounds:
        """Of (reference's squares - candidate's) / squared distance from the mean."""
        values = values_of(truth)
        before, after = ((values - predicted_of(said, self.name)) ** 2 for said in (reference, candidate))
        spread = self._spread(truth)
        harm = max(float(before.max()), float(after.max()), float(spread.mean()))
        return ratio_bounds(before - after, spread, confidence, harm=harm)

    def _spread(self, truth: Truth) -> Array:
        squares = (values_of(truth) - values_of(truth).mean()) ** 2
        if not squares.any():
            raise TooFewRows("all rows have the same target, so there is no variance to explain")
        return np.asarray(squares)


METRICS = (
    RMSE(),
    MAE(),
    MAPE(),
    R2(),
    Family("pinball_<quantile>", REGRESSION, Pinball),
)
