"""A metric of somebody else's: the share of the negative rows that are called negative."""

from __future__ import annotations

from typing import Any

import numpy as np
from slipway.model_store.metrics import Prediction, Task, TooFewRows, Truth
from slipway.model_store.metrics.kinds import Share, classes_of, decisions_of

Array = np.ndarray[Any, Any]


class Specificity(Share):
    """1 where no negative row is called positive. scikit-learn: recall_score(pos_label=0)."""

    name = "specificity"
    tasks: frozenset[Task] = frozenset({"binary"})

    def value(self, truth: Truth, said: Prediction) -> float:
        return float(self.right(truth, said).mean())

    def right(self, truth: Truth, said: Prediction) -> Array:
        """[negatives] bool."""
        negative = classes_of(truth) == 0
        if not negative.any():
            raise TooFewRows("no row is negative, so there is no specificity")
        return np.asarray(decisions_of(said, self.name)[negative] == 0)

    def blind(self, truth: Truth) -> Prediction | None:
        """None: who always says no is always right."""
        return None
