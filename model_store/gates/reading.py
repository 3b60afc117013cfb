"""How any version's output tensors and the file's labels are read: one language for every metric.

A `Reading` is found once, on the original's answers (`model_store.gates.task`), and then applied to every
candidate, so that all are read alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model_store.errors import Permanent
from model_store.gates.vocabulary import Vocabulary, shown
from model_store.metrics.base import Prediction, Truth
from model_store.release_spec import Word
from model_store.types import Task

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]

NO_CLASS = -1
"""The decision of a row that was answered with NaN, or with a word that is no class: never right."""


class WrongOutputs(Permanent):
    """These tensors are not what the reading was found on."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What each output means.

    `label`, `scores`, `value`: names of outputs, None where there is none. `classes`: the file's words in the
    order in which metrics count them, of a binary task the negative one first; `said`: what the model calls
    each. `columns`: where each class stands among the scores, -1 where the model has no score for it.
    `are_margins`: each column is a decision function of its class against all others, compared as it is.
    `single`: of one score column, the place of the class whose sureness it is; `threshold` decides it.
    `told`: what people should know though nothing is wrong.
    """

    task: Task
    label: str | None = None
    scores: str | None = None
    value: str | None = None
    classes: tuple[Word, ...] = ()
    said: tuple[Word, ...] = ()
    columns: tuple[int, ...] = ()
    single: int | None = None
    threshold: float | None = None
    are_probabilities: bool = False
    are_margins: bool = False
    told: tuple[str, ...] = ()

    @property
    def has_scores(self) -> bool:
        return self.scores is not None

    def in_order_of(self, classes: tuple[Word, ...]) -> Reading:
        """The same reading, with these same classes counted in this order."""
        places = [self.classes.index(word) for word in classes]
        return replace(
            self,
            classes=classes,
            said=tuple(self.said[at] for at in places),
            columns=tuple(self.columns[at] for at in places) if self.columns else (),
            single=None if self.single is None else places.index(self.single),
        )

    def spread_over(self, own: Reading) -> Reading:
        """The same reading, in the classes of `own`: some it may not know, some of its own stay out."""
        places = {str(word): place for place, word in enumerate(self.classes)}
        at = [places.get(str(word), -1) for word in own.classes]
        return replace(
            self,
            task=own.task,
            classes=own.classes,
            said=tuple(own.classes[n] if place < 0 else self.said[place] for n, place in enumerate(at)),
            columns=tuple(-1 if place < 0 else self.columns[place] for place in at) if self.columns else (),
        )

    def truth(self, labels: Array, groups: Array | None) -> Truth:
        """The file's labels. A word that no class has is refused where the reading was found."""
        match self.task:
            case "regression" | "ranking" | "custom" if labels.dtype.kind in "iufb":
                return Truth(values=labels.astype(np.float64), groups=groups)
            case "multilabel":
                return Truth(classes=labels.astype(np.int64), class_count=labels.shape[1])
            case "binary" | "multiclass" | "custom":
                return Truth(classes=Vocabulary(self.classes).places(labels), class_count=len(self.classes))
        raise WrongOutputs(f"the labels of a {self.task} task are numbers", remedy="correct data.label")

    def predict(self, outputs: Outputs, rows: int) -> Prediction:
        """What one version says of all rows. Raises `Permanent` (WrongOutputs) unless every output has as
        many rows as were asked for.
        """
        refuse_other_rows(outputs, rows)
        if missing := [
            name for name in (self.label, self.scores, self.value) if name and name not in outputs
        ]:
            raise WrongOutputs(
                f"there is no output `{missing[0]}`; there are {', '.join(outputs)}",
                remedy="every version that is compared must answer under the same names",
            )
        match self.task:
            case "binary" | "multiclass":
                return self._classes(outputs)
            case "multilabel":
                return self._labels(outputs)
            case "ranking":
                return Prediction(scores=_vector(outputs, str(self.scores)))
            case "regression":
                return Prediction(values=_vector(outputs, str(self.value)))
            case "custom":
                values = _vector(outputs, self.value) if self.value else None
                scores = outputs[self.scores].astype(np.float64) if self.scores else None
                return Prediction(values=values, scores=scores)

    def _classes(self, outputs: Outputs) -> Prediction:
        scores = self._scores(outputs[self.scores]) if self.scores else None
        if self.label is not None:
            decided = Vocabulary(self.said).places(outputs[self.label])
        elif self.single is not None:
            above = outputs[str(self.scores)].reshape(-1) > (self.threshold or 0.0)
            decided = np.where(above, self.single, 1 - self.single).astype(np.int64)
        else:
            assert scores is not None
            decided = np.argmax(scores, axis=1).astype(np.int64)
        decided = np.where(rows_not_finite(outputs), NO_CLASS, decided)
        return Prediction(decided, scores, self.are_probabilities)

    def _scores(self, raw: Array) -> Array:
        """[N, C] float64, a column for each class, larger is surer."""
        wide = raw.astype(np.float64).reshape(len(raw), -1)
        if self.single is not None:
            return self._of_one_column(wide)
        if wide.shape[1] <= max(self.columns):
            wrong = f"output `{self.scores}` has {wide.shape[1]} columns for {max(self.columns) + 1} classes"
            raise WrongOutputs(wrong, remedy="versions that are compared must have the same classes")
        known = wide if self.are_probabilities or self.are_margins else _sureness(wide)
        # Of a class that the model cannot answer it is as little sure as can be.
        nothing = np.zeros(len(wide)) if self.are_probabilities else known.min(axis=1) - 1
        return np.stack([nothing if at < 0 else known[:, at] for at in self.columns], axis=1)

    def _of_one_column(self, wide: Array) -> Array:
        if wide.shape[1] != 1:
            wrong = f"output `{self.scores}` has {wide.shape[1]} columns, and had one"
            raise WrongOutputs(wrong, remedy="versions that are compared must answer in the same shape")
        surer = wide[:, 0]
        other = 1 - surer if self.are_probabilities else 2 * (self.threshold or 0.0) - surer
        return np.stack([other, surer] if self.single == 1 else [surer, other], axis=1)

    def _labels(self, outputs: Outputs) -> Prediction:
        scores = outputs[self.scores].astype(np.float64) if self.scores else None
        if self.label is not None:
            decided = outputs[self.label].astype(np.int64)
        else:
            assert scores is not None
            decided = (scores > (self.threshold or 0.0)).astype(np.int64)
        bad = rows_not_finite(outputs)
        decided = np.where(bad[:, None], 0, decided)
        return Prediction(decided, scores, self.are_probabilities)


def refuse_other_rows(outputs: Outputs, rows: int) -> None:
    """Raises `Permanent` (WrongOutputs): rows in are rows out, of every output."""
    for name, values in outputs.items():
        if values.ndim == 0 or len(values) != rows:
            raise WrongOutputs(
                f"output `{name}` answers {rows} rows with {list(values.shape)}: not one answer for each row",
                remedy="export the model with the batch as the first dimension of every output",
            )


def rows_not_finite(outputs: Outputs) -> Array:
    """Which rows [N] hold NaN or infinity in any float output."""
    bad = np.zeros(len(next(iter(outputs.values()))), bool)
    for values in outputs.values():
        if values.dtype.kind == "f":
            bad |= ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    return bad


def told_of_classes(unsayable: tuple[Word, ...], absent: tuple[Word, ...]) -> list[str]:
    """Sentences about classes that only one of model and file knows."""
    told = []
    if unsayable:
        told.append(f"the file holds {shown(unsayable)}, which the model never answers: always wrong there")
    if absent:
        told.append(f"the model knows {shown(absent)}, of which the file holds no row: not judged")
    return told


def _sureness(logits: Array) -> Array:
    """By how much each class is surer than all others together: s - logsumexp of the others; of two logits
    their difference. The order that softmax gives, which no single logit has, never rounded to 1.
    """
    rows = np.arange(len(logits))
    best = np.argmax(logits, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = logits - _log_sum(logits)[:, None]
        surer = share - np.log1p(-np.exp(share))
        # Of the likeliest the share may round to 1, so its others are summed without it.
        others = logits.copy()
        others[rows, best] = -np.inf
        surer[rows, best] = logits[rows, best] - _log_sum(others)
    return np.asarray(surer)


def _log_sum(logits: Array) -> Array:
    highest = logits.max(axis=1)
    return np.asarray(highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1)))


def _vector(outputs: Outputs, name: str) -> Array:
    """Raises `Permanent` (WrongOutputs) unless each row is answered with one number."""
    values = outputs[name]
    if values.size != len(values) or values.dtype.kind not in "iufb":
        raise WrongOutputs(
            f"output `{name}` is {values.dtype}{list(values.shape)}, and a row is judged by one number",
            remedy="log a model for each of several numbers, or name the output with one number a row in"
            " `outputs` of the spec",
        )
    return values.astype(np.float64).reshape(len(values))
