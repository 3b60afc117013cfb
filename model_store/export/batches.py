"""Whether an answer depends on the rows that happen to be in the same batch: pods batch what strangers send.

Settled on 64 rows, each answered alone, in small and in full batches, and in full batches of other company.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from model_store.arrays import count_rows, spread
from model_store.engines.noise import NOISE, are_shares
from model_store.export.agreement import Differences, examples
from model_store.export.base import NotExportable
from model_store.inference import answer

Array = np.ndarray[Any, Any]
Rows = Mapping[str, Array]
Answers = Mapping[str, Array]

SETTLED_ON = 64
_SMALL = 7
# These take the range of a whole batch to quantize by, so that every score moves a little with its company.
_DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
_DYNAMIC_NOISE = 0.1
_RANDOM = {
    "RandomUniform",
    "RandomUniformLike",
    "RandomNormal",
    "RandomNormalLike",
    "Multinomial",
    "Bernoulli",
}
_MAY_BE_RANDOM = {"Dropout"}


@dataclass(frozen=True, slots=True)
class BatchedModel:
    """A model to be asked: `ask(rows, batch_size)` gives all outputs for all rows, by name. `noise`: so far
    its numbers may be apart; `by`: what in it may be random, in words.
    """

    ask: Callable[[Rows, int], Answers]
    noise: float = NOISE["fp32"]
    by: str = "something in it"

    @classmethod
    def graph(cls, session: ort.InferenceSession, model: onnx.ModelProto) -> BatchedModel:
        """An ONNX model, as onnxruntime runs it."""
        operators = {node.op_type for node in model.graph.node}
        random = operators & _RANDOM or operators & _MAY_BE_RANDOM
        return cls(
            lambda rows, size: answer(session, rows, batch_size=size),
            _DYNAMIC_NOISE if _DYNAMIC & operators else NOISE["fp32"],
            ", ".join(sorted(random)) or "something in its graph",
        )


def require_answers_row_by_row(
    asked: BatchedModel,
    rows: Rows,
    *,
    max_batch_size: int,
    probabilities: frozenset[str] = frozenset(),
    stochastic: bool = False,
) -> None:
    """Raises `Permanent` (NotExportable) when equal rows get other answers from call to call, which
    `serving.stochastic` in the spec allows, or in other batches; NotRunnable when not every row gets one.
    `probabilities`: outputs that are some for certain; those that look like it are taken for them here.
    """
    chosen = spread(rows, SETTLED_ON)
    few = {name: array[chosen] for name, array in rows.items()}
    alone = asked.ask(few, 1)
    if stochastic:
        asked.ask(few, max(max_batch_size, 2))
        return
    _refuse_chance(asked.by, alone, asked.ask(few, 1))
    shares = probabilities | {name for name, array in alone.items() if are_shares(array)}
    for how, together in _in_batches(asked, rows, few, chosen, max(max_batch_size, 2)):
        _refuse_company(alone, together, how, asked.noise, shares)


def _in_batches(
    asked: BatchedModel, rows: Rows, few: Rows, chosen: Array, full: int
) -> Iterator[tuple[str, Rows]]:
    yield f"in batches of {_SMALL}", asked.ask(few, _SMALL)
    yield f"in batches of {full}", asked.ask(few, full)
    places, order = _other_company(chosen, count_rows(rows), full)
    mixed = asked.ask({name: array[order] for name, array in rows.items()}, full)
    yield f"in batches of {full} with other rows", {name: array[places] for name, array in mixed.items()}


def _other_company(chosen: Array, count: int, full: int) -> tuple[Array, Array]:
    """An order of rows in which every second one is of the chosen, and where those are in it."""
    random = np.random.default_rng(0)
    company = random.integers(0, count, len(chosen))
    shuffled = random.permutation(len(chosen))
    order = np.stack([chosen[shuffled], company], axis=1).ravel()
    places = np.empty(len(chosen), int)
    places[shuffled] = 2 * np.arange(len(chosen))
    return places, order


def _refuse_chance(by: str, first: Rows, second: Rows) -> None:
    found = Differences.between(first, second)
    if found.but_for(0) == 0:
        return
    raise NotExportable(
        f"the model answers the same rows otherwise from one call to the next, by {by}:"
        f" {examples(found, first, second, 'at first', 'then')}",
        remedy="export it in evaluation mode (torch: model.eval()); if chance is meant, set"
        " serving.stochastic: true in the spec",
    )


def _refuse_company(
    alone: Rows, together: Rows, how: str, noise: float, probabilities: frozenset[str]
) -> None:
    found = Differences.between(alone, together, probabilities, tie=2 * noise)
    differing = int(np.count_nonzero(found.worst_by_row > noise))
    if not differing:
        return
    raise NotExportable(
        f"{differing} of {len(found)} rows are answered otherwise {how} than alone, so an answer depends on"
        f" whose rows are in the same batch: {examples(found, alone, together, 'alone', how)}",
        remedy="export it in evaluation mode (torch: model.eval(), so that batch norm uses its trained"
        " statistics), and with nothing computed over the first dimension",
    )
