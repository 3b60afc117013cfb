"""Which nodes must stay fp32: a bounded search by measured sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto, NodeProto


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize: the layout, and how activation ranges are taken from the calibration rows."""

    layout: str
    method: str


@dataclass(frozen=True, slots=True)
class Found:
    """A quantized model and what it changed on the calibration rows.

    `changed` is the share of rows with another decision; `distance` the RMS difference of the scores.
    """

    model: bytes
    recipe: Recipe
    excluded: tuple[str, ...]
    changed: float
    distance: float

    @property
    def loss(self) -> tuple[float, float]:
        return (self.changed, self.distance)

    def described(self) -> dict[str, Any]:
        """For the artifact's provenance."""
        return {
            "method": self.recipe.method,
            "excluded": list(self.excluded),
            "changed_decisions": self.changed,
            "score_distance": self.distance,
        }


@dataclass(frozen=True, slots=True)
class Units:
    """What is excluded together: single nodes, or nodes of one kind and weight shape when there are many.

    In a transformer the harmful nodes are such kinds: the attention products (two computed operands), the
    second feed-forward weights.
    """

    members: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, model: ModelProto, operators: Iterable[str], *, max_units: int) -> Units:
        """The model's nodes of these operators, in graph order."""
        wanted = set(operators)
        heavy = [node for node in model.graph.node if node.op_type in wanted]
        if len(heavy) <= max_units:
            return cls(tuple((node.name,) for node in heavy))
        shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
        for node in heavy:
            groups.setdefault(_kind(node, shapes), []).append(node.name)
        return cls(tuple(tuple(names) for names in groups.values()))

    @property
    def nodes(self) -> tuple[str, ...]:
        return _flat(self.members)

    def without(self, unit: tuple[str, ...]) -> tuple[str, ...]:
        """Every node that is not in this unit."""
        return tuple(name for name in self.nodes if name not in unit)


Run = Callable[[Recipe, tuple[str, ...]], Found]


def search_exclusions(run: Run, start: Found, units: Units, max_changed: float) -> Found:
    """The fewest units in fp32, most harmful first, that keep the changed decisions within `max_changed`.

    Costs one trial per unit (how harmful is it alone?) and a bisection over how many to exclude. At least one
    unit stays quantized: when that is still not enough, the least harmful model found, for the gate to judge.
    """
    ranked = _by_harm(run, start.recipe, units)
    enough, least, low, high = None, start, 1, len(ranked) - 1
    while low <= high:
        middle = (low + high) // 2
        found = run(start.recipe, _flat(ranked[:middle]))
        least = min(least, found, key=lambda one: one.loss)
        if found.changed <= max_changed:
            enough, high = found, middle - 1
        else:
            low = middle + 1
    return enough or least


def _by_harm(run: Run, recipe: Recipe, units: Units) -> list[tuple[str, ...]]:
    alone = {unit: run(recipe, units.without(unit)).loss for unit in units.members}
    return sorted(units.members, key=lambda unit: alone[unit], reverse=True)


def _kind(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> tuple[str, tuple[int, ...]]:
    """Operator and the shape of its weight; () when both operands are computed."""
    return node.op_type, next((shapes[name] for name in node.input if name in shapes), ())


def _flat(units: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(name for unit in units for name in unit)
