"""What candidates are judged on: the original's answers and the file's labels, read in one language."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store.dataset import Dataset
from model_store.errors import Permanent
from model_store.gates.classes import classifier
from model_store.gates.exam import Answered, Exam, Own
from model_store.gates.questions import OpenQuestion, Seen, Unsaid
from model_store.gates.reading import Outputs, Reading
from model_store.gates.sanity import refuse_mirrored
from model_store.gates.task import resolve
from model_store.metrics.custom import Custom
from model_store.release_spec import ReleaseSpec
from model_store.stages.base import BuildContext, Exported
from model_store.stages.forms import in_words_of
from model_store.stages.inputs import evaluation_rows, function_path
from model_store.types import Task


@dataclass(frozen=True, slots=True, eq=False)
class Examined:
    """The evaluation rows, what the original says of them, and how every version's answers are read."""

    rows: Dataset
    original: Answered
    exam: Exam


def examine(ctx: BuildContext, exported: Exported) -> Examined:
    """Raises `Permanent`: what spec, model and file leave open is asked for in one message."""
    ctx = in_words_of(ctx, exported)
    rows = evaluation_rows(ctx, exported)
    if rows.labels is None:
        raise Permanent("evaluation rows have no labels", remedy="name the label column in data.label")
    answers = read_answers(ctx, exported["answers"]["blob"])
    says: Mapping[str, Any] = exported.get("says") or {}
    reading = resolve(Seen(ctx.spec, answers, rows.labels, says))
    truth = reading.truth(rows.labels, rows.groups)
    original = Answered.read("original", answers, reading, len(rows))
    return Examined(rows, original, Exam(reading, truth, rows.slices, ctx.spec.gates, _custom(ctx)))


def _custom(ctx: BuildContext) -> tuple[Own, ...]:
    """The metrics of the user's own. Raises `Permanent` for code that nobody trusts, and missing files."""
    trusted = ctx.spec.source.trusted
    return tuple(
        Own(
            one.title,
            Custom(function_path(ctx, one.function), trusted=trusted, scratch=ctx.store.scratch),
            one,
        )
        for one in ctx.spec.gates.custom
    )


def read_answers(ctx: BuildContext, digest: str) -> dict[str, np.ndarray[Any, Any]]:
    """What `saved_answers` wrote."""
    with np.load(io.BytesIO(ctx.store.get_bytes(digest)), allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}


def read_champion(ctx: BuildContext, examined: Examined, name: str, outputs: Outputs) -> Answered:
    """The champion's answers. Its classes may be in another order than the candidate's, so it is looked at by
    itself; only what it leaves open is read as the candidate is.
    """
    own, labels = examined.exam.reading, examined.rows.labels
    assert labels is not None
    try:
        reading = resolve(Seen(ctx.spec, outputs, labels, task=own.task))
    except Unsaid:
        reading = own
    if own.has_scores and not reading.has_scores:
        reading = _of_fewer_classes(ctx, own, name, outputs, labels)
    champion = Answered.read(name, outputs, _in_the_classes_of(own, reading), len(examined.rows))
    refuse_mirrored(champion, examined.exam)
    return champion


def _of_fewer_classes(
    ctx: BuildContext, own: Reading, name: str, outputs: Outputs, labels: np.ndarray[Any, Any]
) -> Reading:
    """Of a champion from before there was some class: read on the rows of those it knows, and sure that
    no row is of another. Raises `Permanent` where its scores cannot be told apart even so.
    """
    answered = outputs.get(own.label or "")
    known = labels if answered is None else np.isin(labels.astype(str), np.unique(answered.astype(str)))
    try:
        few = {output: array[known] for output, array in outputs.items()}
        left = labels[known]
        task: Task = "binary" if len(np.unique(left.astype(str))) == 2 else own.task
        reading = classifier(Seen(_positive(ctx.spec, left), few, left, task=task))
    except (Permanent, OpenQuestion) as error:
        raise Permanent(
            f"{name} answers other classes than {', '.join(map(str, own.classes))}, so its scores cannot be"
            " held against this version's",
            remedy="limit accuracy alone under gates.champion for this release, or leave gates.champion out",
        ) from error
    return reading.spread_over(own)


def _positive(spec: ReleaseSpec, labels: np.ndarray[Any, Any]) -> ReleaseSpec:
    """Of the two classes that may be left one is looked for, if only to count them in some order."""
    data = spec.data.model_copy(update={"positive": str(labels[0])})
    return spec.model_copy(update={"data": data})


def _in_the_classes_of(own: Reading, other: Reading) -> Reading:
    """`other` in the order in which `own` counts classes, of which either may know more than the other."""
    ours, theirs = set(map(str, own.classes)), set(map(str, other.classes))
    if ours == theirs:
        return other.in_order_of(own.classes)
    # One column for two classes says nothing of a third.
    return own if other.single is not None or not ours & theirs else other.spread_over(own)
