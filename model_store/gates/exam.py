"""What candidates are judged on, and what each version says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model_store.engines.noise import tied
from model_store.gates.reading import Outputs, Reading, rows_not_finite
from model_store.gates.task import Unfit
from model_store.metrics.base import Metric, Prediction, Truth
from model_store.metrics.registry import metric
from model_store.release_spec import Gates, Margin

Array = np.ndarray[Any, Any]

# Beside a classifier's accuracy, which at 2 % positives does not see that none is found any more.
GUARDS = ("balanced_accuracy", "auc")


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What one version says of all rows, and which of them it answered with NaN or infinity ([N] bool)."""

    name: str
    said: Prediction
    not_finite: Array

    @classmethod
    def read(cls, name: str, outputs: Outputs, reading: Reading, rows: int) -> Answered:
        """Raises `Permanent` unless every output has as many rows as were asked."""
        return cls(name, reading.predict(outputs, rows), rows_not_finite(outputs))

    def deciding_ties_as(self, original: Answered, *, tie: float, noise: float) -> Answered:
        """The same, where the original's two surest classes are as good as equal and its own are too: there
        the last digit decides, in every version another, and the original's decision stands.

        `tie` and `noise`: how near is equal, to the original and to this one.
        """
        said, other = self.said, original.said
        if (
            said.decisions is None
            or said.scores is None
            or other.scores is None
            or not said.are_probabilities
        ):
            return self
        if other.decisions is None or said.decisions.ndim != 1:
            return self
        either = tied(other.scores, tie) & tied(said.scores, noise) & ~self.not_finite
        return replace(self, said=replace(said, decisions=np.where(either, other.decisions, said.decisions)))

    def take(self, rows: Array) -> Answered:
        return Answered(self.name, self.said.take(rows), self.not_finite[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """A metric of the user's own, under the name of its checks."""

    title: str
    by: Metric
    margin: Margin


@dataclass(frozen=True, slots=True, eq=False)
class Exam:
    """What candidates are judged on: the truth of each row, its slices, and the gates of the spec."""

    reading: Reading
    truth: Truth
    slices: Mapping[str, Array]
    gates: Gates
    custom: tuple[Own, ...] = ()

    def limits(self) -> dict[str, Margin]:
        """The margin of each metric that this model can be judged by, the main one first.

        A default is left out where the model has no scores for it. Raises `Permanent` (Unfit) where the limit
        is written.
        """
        limits = self.gates.limits(self.reading.task)
        blind = [name for name in limits if self._lacks_scores(metric(name))]
        if written := [name for name in blind if name in self.gates.written]:
            raise Unfit(
                f"gates.{written[0]} needs scores and the model answers only labels",
                remedy=f"export it with probabilities, or set gates.{written[0]} to null",
            )
        return {name: margin for name, margin in limits.items() if name not in blind}

    def guards(self, gated: Mapping[str, Margin]) -> list[Metric]:
        """What is looked at besides: of a classifier whose decisions are gated, where nobody gates it."""
        if self.reading.task not in ("binary", "multiclass"):
            return []
        guards = [metric(name) for name in GUARDS if name not in gated]
        return [guard for guard in guards if not self._lacks_scores(guard)]

    def _lacks_scores(self, named: Metric) -> bool:
        return named.needs == "scores" and not self.reading.has_scores
