"""Which nodes must stay fp32: a bounded search by measured sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize: the layout, and how activation ranges are taken from the calibration rows."""

    layout: str
    method: str


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """The file of a quantized model and what it changed on the calibration rows.

    `changed` is the share of rows with another decision; `lost` the share expected to be wrong because of it,
    never more (see `int8.Trial`); `distance` the RMS difference of the scores.
    """

    model: Path
    recipe: Recipe
    excluded: tuple[str, ...]
    changed: float
    lost: float
    distance: float

    @property
    def loss(self) -> tuple[float, float, float]:
        return (self.lost, self.changed, self.distance)

    def keeps(self, max_changed: float) -> bool:
        """Whether few enough decisions change, and at most half as many are expected to be lost."""
        return self.changed <= max_changed and self.lost <= max_changed / 2

    def described(self) -> dict[str, Any]:
        """For the artifact's provenance."""
        return {
            "method": self.recipe.method,
            "excluded": list(self.excluded),
            "changed_decisions": self.changed,
            "lost_decisions": self.lost,
            "score_distance": self.distance,
        }


@dataclass(frozen=True, slots=True)
class Units:
    """What is excluded together: single nodes, or nodes of one kind and weight shape when there are many.

    In a transformer the harmful nodes are such kinds: the attention products (two computed operands), the
    second feed-forward weights. `weightless`: those of the members whose operands are all computed.
    """

    members: tuple[tuple[str, ...], ...]
    weightless: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, model: ModelProto, operators: Iterable[str], *, max_units: int) -> Units:
        """The model's nodes of these operators, in graph order."""
        wanted = set(operators)
        heavy = [node for node in model.graph.node if node.op_type in wanted]
        shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        groups: dict[tuple[Any, ...], list[str]] = {}
        for node in heavy:
            own = (node.name,) if len(heavy) <= max_units else ()
            groups.setdefault((*_kind(node, shapes), *own), []).append(node.name)
        members = {kind: tuple(names) for kind, names in groups.items()}
        return cls(tuple(members.values()), tuple(names for kind, names in members.items() if not kind[1]))

    @property
    def nodes(self) -> tuple[str, ...]:
        return _flat(self.members)

    def without(self, unit: tuple[str, ...]) -> tuple[str, ...]:
        """Every node that is not in this unit."""
        return tuple(name for name in self.nodes if name not in unit)


Run = Callable[[Recipe, tuple[str, ...]], QuantizedModel]


def search_exclusions(run: Run, start: QuantizedModel, units: Units, max_changed: float) -> QuantizedModel:
    """The fewest units in fp32 that keep the changed decisions within `max_changed` (`Found.keeps`).

    Those without weights go first, for the file is no smaller for them; then the most harmful. Costs one
    trial per unit (how harmful is it alone?) and a bisection over how many to exclude. At least one unit
    stays quantized: when that is still not enough, the least harmful model found, for the gate to judge.
    """
    ranked = _by_harm(run, start.recipe, units)
    enough, least, low, high = None, start, 1, len(ranked) - 1
    while low <= high:
        middle = (low + high) // 2
        found = run(start.recipe, _flat(ranked[:middle]))
        least = min(least, found, key=lambda one: one.loss)
        if found.keeps(max_changed):
            enough, high = found, middle - 1
        else:
            low = middle + 1
    return enough or least


def _by_harm(run: Run, recipe: Recipe, units: Units) -> list[tuple[str, ...]]:
    weighty = [unit for unit in units.members if unit not in units.weightless]
    alone = {unit: _harm(run(recipe, units.without(unit))) for unit in weighty}
    return [*units.weightless, *sorted(weighty, key=lambda unit: alone[unit], reverse=True)]


def _harm(found: QuantizedModel) -> tuple[float, float, float]:
    # One file for each node of a large model would fill the disk.
    found.model.unlink(missing_ok=True)
    return found.loss


def _kind(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> tuple[str, tuple[int, ...]]:
    """Operator and the shape of its weight; () when both operands are computed."""
    return node.op_type, next((shapes[name] for name in node.input if name in shapes), ())


def _flat(units: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(name for unit in units for name in unit)
