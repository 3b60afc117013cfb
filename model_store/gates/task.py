"""From spec, model and file to one reading. What is neither said nor certain is asked for, never guessed.

`resolve` looks at all of it and raises one `Unsaid` with every question; its parts are `outputs` (which
output is what) and `classes` (which class is which).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from model_store.errors import Permanent
from model_store.gates.classes import classifier
from model_store.gates.outputs import find_value, scores_alone
from model_store.gates.questions import OpenQuestion, OpenQuestions, Seen, Unsaid, is_column, width
from model_store.gates.reading import Reading
from model_store.gates.vocabulary import shown, written
from model_store.metrics.registry import known
from model_store.release_spec import USUAL
from model_store.release_spec.release import unfit
from model_store.types import Task

Kind = Task | Literal["classes"]

# A file whose label takes more numbers than this does not look like classes.
FEW = 20


class Unfit(Permanent):
    """Model, file and gates are not of one task."""


def resolve(seen: Seen) -> Reading:
    """The reading of every version that is compared. Raises `Permanent`: `Unsaid` for what must be said,
    `Unfit` for gates that cannot judge such a model.
    """
    try:
        kind = _kind(seen)
        reading = _find(seen, kind)
    except OpenQuestion as question:
        raise Unsaid([question]) from None
    refuse_unfit(seen, reading)
    return reading


def _find(seen: Seen, kind: Kind) -> Reading:
    match kind:
        case "regression":
            return _regression(seen)
        case "ranking":
            return Reading("ranking", scores=find_value(seen, "scores"))
        case "multilabel":
            return _multilabel(seen)
        case "custom":
            return _custom(seen)
        case _:
            return classifier(seen)


def _custom(seen: Seen) -> Reading:
    """What the user's own metric is given: the only output of one number a row, the only one of several."""
    numbers = {name: values for name, values in seen.answers.items() if values.dtype.kind in "iuf"}
    single = [name for name, values in numbers.items() if is_column(values)]
    several = [name for name, values in numbers.items() if values.ndim == 2 and not is_column(values)]
    value = seen.named("value") or (single[0] if len(single) == 1 else None)
    scores = seen.named("scores") or (several[0] if len(several) == 1 else None)
    words = () if seen.labels.dtype.kind in "iufb" else seen.file_words
    return Reading("custom", value=value, scores=scores, classes=words)


def _kind(seen: Seen) -> Kind:
    """What the spec says, else what the model says, else what the file and the outputs leave no doubt of."""
    said = seen.task or seen.spec.task
    if said is not None:
        return "classes" if said in ("binary", "multiclass") else said
    kind = seen.says.get("kind")
    if seen.says.get("multilabel") or seen.labels.ndim == 2:
        return "multilabel"
    if seen.spec.data.group is not None:
        return "ranking"
    if kind == "ranker":
        raise OpenQuestion(
            "the model is a ranker, and nothing says which rows are ranked together",
            "task: ranking", "data: {group: THE COLUMN, ...}",
        )  # fmt: skip
    if kind in ("regressor", "classifier", "outlier"):
        return "regression" if kind == "regressor" else "classes"
    return _by_shape(seen)


def _by_shape(seen: Seen) -> Kind:
    """Of a model that says nothing of itself."""
    if seen.labels.dtype.kind == "f":
        # Numbers with fractions are no classes, and without groups no ranking.
        return "regression"
    outputs = seen.spec.outputs
    if outputs.value is not None and outputs.scores is None and outputs.label is None:
        return "regression"
    answers = seen.answers.values()
    speaks_classes = any(is_column(v) and v.dtype.kind in "iubOUS" for v in answers)
    has_columns = any((width(v) or 0) > 1 and v.dtype.kind == "f" for v in answers)
    is_word = seen.labels.dtype.kind in "bOUS"
    if speaks_classes or has_columns or is_word or _is_yes_or_no(seen):
        return "classes"
    name = next(iter(seen.answers))
    raise OpenQuestion(
        f"the model answers one number a row ({seen.described()}), the file holds {shown(seen.file_words)}:"
        " nothing says whether the label is a number or a class",
        "task: regression           # the label is a number, such as days or an amount",
        "# or, if it is a class:",
        f"task: binary\n      outputs: {{scores: {written(name)}, threshold: 0.5}}",
    )


def _is_yes_or_no(seen: Seen) -> bool:
    return set(seen.file_words) <= {0, 1}


def _regression(seen: Seen) -> Reading:
    if seen.labels.ndim != 1 or seen.labels.dtype.kind not in "iuf":
        raise Unfit(
            f"a regression is judged by numbers, and the file's label holds {shown(seen.file_words)}",
            remedy="name the column of numbers in data.label, or say which task it is: `task: multiclass`",
        )
    return Reading("regression", value=find_value(seen, "value"))


def _multilabel(seen: Seen) -> Reading:
    if seen.labels.ndim != 2:
        raise Unfit(
            "the model answers several labels for each row, and data.label is one column",
            remedy="list the columns of 0 and 1 in the order of the model's labels: `data: {label: [a, b]}`",
        )
    count, asked = seen.labels.shape[1], OpenQuestions()
    fits = {name: v for name, v in seen.answers.items() if v.ndim == 2 and v.shape[1] == count}
    names = [name for name, values in fits.items() if values.dtype.kind in "iub"]
    label = seen.spec.outputs.label or seen.role("label") or (names[0] if len(names) == 1 else None)
    found = asked.attempt(
        lambda: scores_alone(seen, {n: v for n, v in fits.items() if v.dtype.kind == "f"}), None
    )
    if label is None and found is None and not asked.questions:
        raise Unfit(
            f"no output answers the {count} labels of data.label: {seen.described()}",
            remedy=f"export an output of {count} columns, one for each label in the order of data.label",
        )
    asked.settle()
    reading = Reading("multilabel", label=label)
    if found is None:
        return reading
    return replace(
        reading,
        scores=found.name,
        are_probabilities=found.are_probabilities,
        threshold=found.decides(seen) if label is None else found.threshold,
    )


def refuse_unfit(seen: Seen, reading: Reading) -> None:
    """Raises `Permanent` (Unfit) for gates that cannot judge this model, with what to write instead."""
    wrong = unfit(reading.task, seen.spec.gates)
    if not wrong:
        return
    named = ", ".join(f"gates.{name}" for name in wrong)
    raise Unfit(
        f"the task is {reading.task} ({_because(seen)}), and {named} cannot judge it; there are:"
        f" {', '.join(known(reading.task))}",
        remedy=f"take {', '.join(wrong)} out of gates, and write:\n{_example(reading.task)}",
    )


def _because(seen: Seen) -> str:
    if seen.spec.task is not None:
        return "the spec says so"
    kind = seen.says.get("kind")
    return f"the model is a {kind}" if kind else f"its outputs are {seen.described()}"


def _example(task: Task) -> str:
    usual = [
        f"{name}: {{{'max_drop' if margin.is_drop else 'max_increase'}: {margin.allowed:g}}}"
        for name, margin in USUAL[task].items()
    ]
    return "\n".join([f"      task: {task}", "      gates:", *(f"        {line}" for line in usual)])
