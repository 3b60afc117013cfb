"""Which of a model's outputs is the label, which the scores, which the value; and what its scores are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from model_store.gates.questions import OpenQuestion, Seen, either, is_column, width
from model_store.gates.vocabulary import written

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Scores:
    """An output that says how sure the model is. `threshold`: of a single column, None if nobody says it."""

    name: str
    values: Array
    are_probabilities: bool
    threshold: float | None
    are_margins: bool = False

    @property
    def width(self) -> int:
        return width(self.values) or 0

    def decides(self, seen: Seen) -> float:
        """The threshold. Raises `OpenQuestion` where it is neither said nor certain."""
        if self.threshold is not None:
            return self.threshold
        low, high = float(np.nanmin(self.values)), float(np.nanmax(self.values))
        raise OpenQuestion(
            f"output `{self.name}` is one score a row, between {low:.3g} and {high:.3g}, and nothing says"
            " above which the answer is yes",
            f"outputs: {{scores: {written(self.name)}, threshold: 0.5}}   # probabilities",
            f"# or: outputs: {{scores: {written(self.name)}, threshold: 0}}   # logits",
        )


def find_label(seen: Seen) -> str | None:
    """The output that holds the decided class of each row; None if the model answers scores alone."""
    if (said := seen.named("label") or seen.role("label")) is not None:
        return said
    fits = [
        name for name, values in seen.answers.items() if is_column(values) and values.dtype.kind in "iubOUS"
    ]
    if len(fits) > 1:
        raise OpenQuestion(
            f"several outputs could be the decided class: {seen.described()}",
            *either(*(f"outputs: {{label: {written(name)}}}" for name in fits)),
        )
    return fits[0] if fits else None


def find_value(seen: Seen, what: Literal["value", "scores"]) -> str:
    """The one output with a number for each row. Raises `OpenQuestion` where several could be it."""
    said = seen.named(what) or seen.role(what) or seen.role("value") or seen.role("label")
    if said is not None:
        return said
    fits = [name for name, values in seen.answers.items() if is_column(values) and values.dtype.kind in "iuf"]
    if len(fits) == 1:
        return fits[0]
    several = "several outputs hold" if fits else "no output holds"
    raise OpenQuestion(
        f"{several} one number for each row: {seen.described()}",
        *either(
            *(f"outputs: {{{what}: {written(name)}}}" for name in fits or ["THE OUTPUT, exported as [N, 1]"])
        ),
    )


def possible_scores(seen: Seen, widths: set[int]) -> dict[str, Array]:
    """The outputs of floats whose columns could be so many classes."""
    return {
        name: values
        for name, values in seen.answers.items()
        if values.dtype.kind == "f" and width(values) in widths
    }


def scores_alone(seen: Seen, fits: Mapping[str, Array]) -> Scores | None:
    """The scores among those that fit: said, the only ones, or the only ones that call themselves
    probabilities. Raises `OpenQuestion` where that leaves several.
    """
    said = seen.named("scores") or seen.role("scores") or seen.role("decision_function")
    if said is not None:
        return scores_of(seen, said)
    if len(fits) > 1:
        fits = _named_probabilities(fits) or fits
    if len(fits) > 1:
        raise OpenQuestion(
            f"several outputs could be the scores: {seen.described()}",
            *either(*(f"outputs: {{scores: {written(name)}}}" for name in fits)),
        )
    return scores_of(seen, next(iter(fits))) if fits else None


def scores_of(seen: Seen, name: str) -> Scores:
    """What is known of an output of scores."""
    values = seen.answers[name]
    is_single = is_column(values) or seen.labels.ndim == 2
    are_probabilities = _are_probabilities(seen, name, values, is_single=is_single)
    threshold = seen.spec.outputs.threshold if is_single else None
    are_margins = (seen.says.get("outputs") or {}).get(name) == "decision_function"
    if threshold is None and is_single:
        threshold = 0.5 if are_probabilities else 0.0 if are_margins else None
    return Scores(name, values, are_probabilities, threshold, are_margins and not are_probabilities)


def _are_probabilities(seen: Seen, name: str, values: Array, *, is_single: bool) -> bool:
    finite = values[np.isfinite(values)]
    if not finite.size or finite.min() < 0 or finite.max() > 1:
        return False
    if not is_single:
        # Rows that all sum to one are shares of something; that they sum to one by chance nobody believes.
        return bool(np.allclose(np.nansum(values, axis=1), 1, atol=1e-3))
    is_named = "prob" in name.lower() or "sigmoid" in name.lower()
    is_said = (seen.says.get("outputs") or {}).get(name) == "scores"
    return is_named or is_said or bool((seen.says.get("probabilities") or {}).get(name))


def _named_probabilities(fits: Mapping[str, Array]) -> dict[str, Array]:
    named = {name: values for name, values in fits.items() if "prob" in name.lower()}
    return named if len(named) == 1 else {}
