"""Which method of a scikit-learn estimator each ONNX output stands for: found by comparing, not by name.

skl2onnx calls `probabilities` what may be a decision function, with its sign turned for a binary SVC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store.export.agreement import Differences, tolerated_rows
from model_store.export.says import Kind, Role

Array = np.ndarray[Any, Any]
Answers = Mapping[str, Array]


@dataclass(frozen=True, slots=True, eq=False)
class Paired:
    """`answers`: the original's, by ONNX output, in the shape and type that the output has. `methods`: whose
    answers those are. `uncompared`: outputs that no method of the original answers.
    """

    answers: dict[str, Array]
    methods: dict[str, str]
    uncompared: tuple[str, ...]

    @property
    def probabilities(self) -> frozenset[str]:
        """The outputs that are probabilities."""
        return frozenset(name for name, method in self.methods.items() if method == "predict_proba")

    def roles(self, kind: Kind | None) -> dict[str, Role | None]:
        """What each output is, for an estimator of this kind."""
        predicted: dict[Kind | None, Role] = {"classifier": "label", "outlier": "label", "regressor": "value"}
        known: dict[str, Role | None] = {
            "predict": predicted.get(kind),
            "predict_proba": "scores",
            "decision_function": "decision_function",
        }
        return {name: known.get(method) for name, method in self.methods.items()}


def pair(onnx: Answers, said: Answers, *, tolerance: float) -> Paired:
    """The first output is what `predict` says, as skl2onnx has it; the others are what they agree with.

    `said`: by method. Probabilities are taken for what `predict_proba` says even where they disagree, so that
    this is refused later, and not left out.
    """
    answers: dict[str, Array] = {}
    methods: dict[str, str] = {}
    for place, (name, array) in enumerate(onnx.items()):
        asked = (
            {"predict": said["predict"]} if place == 0 else {m: a for m, a in said.items() if m != "predict"}
        )
        if (found := _closest(array, asked, tolerance)) is not None:
            methods[name], answers[name] = found
        elif place == 0:
            methods[name], answers[name] = "predict", said["predict"]
    return Paired(answers, methods, tuple(name for name in onnx if name not in methods))


def _closest(onnx: Array, said: Answers, tolerance: float) -> tuple[str, Array] | None:
    """Method and answers of what fits the output, and agrees with it unless it must be this one anyway."""
    fitting = [(_distance(form, onnx, method), method, form) for method, form in _forms(onnx, said)]
    if not fitting:
        return None
    distance, method, form = min(fitting, key=lambda one: one[0])
    must_be = method == "predict" or (method == "predict_proba" and len(said) == 1)
    return (method, form) if must_be or distance <= tolerance else None


def _forms(onnx: Array, said: Answers) -> Iterator[tuple[str, Array]]:
    """What the original said in the output's shape: a row's one number may be [N], [N, 1] or, as the scores
    of both classes, [N, 2].
    """
    for method, array in said.items():
        if array.size == onnx.size and len(array) == len(onnx):
            yield method, _typed(array.reshape(onnx.shape), onnx)
        elif method == "decision_function" and array.ndim == 1 and onnx.shape == (len(array), 2):
            yield method, np.stack([-array, array], axis=1)


def _typed(array: Array, onnx: Array) -> Array:
    """True is answered as 1 and class 1.0 as 1: the same in the output's type, where it is the same."""
    if array.dtype.kind not in "bf" or onnx.dtype.kind not in "iu":
        return array
    cast = array.astype(onnx.dtype)
    return cast if np.array_equal(cast, array) else array


def _distance(form: Array, onnx: Array, method: str) -> float:
    probable = frozenset({"it"} if method == "predict_proba" else ())
    found = Differences.between({"it": form}, {"it": onnx}, probable)
    return found.but_for(tolerated_rows(len(found)))
