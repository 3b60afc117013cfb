"""What a model takes and gives: tensor names, datatypes and shapes, and whether rows can be batched."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from model_store.engines.datatypes import DATATYPES, Datatype
from model_store.engines.errors import Refused, TooLarge

Shape = tuple[int, ...]
_REMEMBERED_SHAPES = 1024
_MOST_WITHOUT_ROWS = 2**31
NO_LIMIT = 2**63


class Accepted(NamedTuple):
    """A shape that fits the tensor, and how many elements it has."""

    shape: Shape
    elements: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor. `shape` has -1 where a dimension is free.

    `max_elements` and `max_json_elements`: what a request may send of it, the latter as JSON; `row_elements`
    are those of one row.
    """

    name: str
    datatype: Datatype
    shape: Shape
    max_elements: int = field(default=NO_LIMIT, compare=False)
    max_json_elements: int = field(default=NO_LIMIT, compare=False)
    row_elements: int = field(default=1, compare=False)
    accepted: dict[Shape, Accepted] = field(default_factory=dict, compare=False, repr=False)

    def accept(self, shape: object) -> Accepted:
        """Check a request's shape. Raises `Refused` saying what was expected.

        Shapes seen before are found in `accepted`; the memory of them is bounded, since clients choose them.
        """
        checked = self._checked(shape)
        count = 1
        for size in checked:
            count *= size
        if count > self.max_elements:
            raise self.too_large(checked)
        found = Accepted(checked, count)
        if len(self.accepted) < _REMEMBERED_SHAPES:
            self.accepted[checked] = found
        return found

    def _checked(self, shape: object) -> Shape:
        if not isinstance(shape, list | tuple) or not all(map(_is_size, shape)):
            raise self._refusal(f"`shape` must be a list of integers, got {str(shape)[:100]}")
        # Elements take room in the request. Where there are none, nothing else bounds what a shape says.
        if 0 in shape[1:] or (0 in shape and math.prod(shape[1:]) > _MOST_WITHOUT_ROWS):
            raise self._refusal(f"`shape` may be 0 only as the number of rows, got {str(list(shape))[:100]}")
        fits = len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )
        if not fits:
            raise self._refusal(f"shape {str(list(shape))[:100]} does not fit {list(self.shape)}")
        return tuple(shape)

    def too_large(self, shape: Shape, *, as_json: bool = False) -> TooLarge:
        """The refusal of more than there is time for."""
        most = self.max_json_elements if as_json else self.max_elements
        words = "as JSON" if as_json else "within the time a request has"
        remedy = ", or send binary data" if as_json and self.max_json_elements < self.max_elements else ""
        if -1 in self.shape[1:]:
            return TooLarge(
                f"input {self.name!r}: shape {list(shape)}, and one request of this model may have {most} "
                f"elements {words}",
                remedy=f"send fewer or shorter rows{remedy}",
            )
        rows = most // self.row_elements
        return TooLarge(
            f"input {self.name!r}: {shape[0]} rows, and one request of this model may have {rows} {words}",
            remedy=f"split it into requests of at most {rows} rows{remedy}",
        )

    def _refusal(self, problem: str) -> Refused:
        return Refused(
            f"input {self.name!r}: {problem}",
            remedy=f"send shape {list(self.shape)} of {self.datatype.name} (-1: any size)",
        )


def _is_size(size: object) -> bool:
    # JSON's true and 1.0 equal 1 in Python, but are no sizes.
    return type(size) is int and size >= 0


@dataclass(frozen=True, slots=True)
class Signature:
    """All tensors. `is_batched`: every tensor's first dimension is free, so calls can share a run."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    is_batched: bool
    is_static: bool
    is_fixed: bool
    positions: dict[str, int]

    @classmethod
    def of(cls, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Signature:
        """Work out batchability. `is_static`: beyond the rows, no input dimension is free.
        `is_fixed`: one static input of fixed-size elements, so its bytes alone tell its shape."""
        tensors = inputs + outputs
        is_batched = all(spec.shape and spec.shape[0] == -1 for spec in tensors)
        is_static = is_batched and all(-1 not in spec.shape[1:] for spec in inputs)
        is_fixed = is_static and len(inputs) == 1 and inputs[0].datatype.size > 0
        positions = {spec.name: i for i, spec in enumerate(inputs)}
        return cls(inputs, outputs, is_batched, is_static, is_fixed, positions)

    def limited(self, row_elements: Sequence[int], max_rows: int, max_json_rows: int) -> Signature:
        """The same for requests of at most so many rows, of so many elements in each input (0: any)."""
        inputs = tuple(
            dataclasses.replace(
                spec,
                accepted={},
                max_elements=max_rows * each or NO_LIMIT,
                max_json_elements=max_json_rows * each or NO_LIMIT,
                row_elements=each or 1,
            )
            for spec, each in zip(self.inputs, row_elements, strict=True)
        )
        return dataclasses.replace(self, inputs=inputs)


def tensor_spec(name: str, datatype: str, shape: list[int]) -> TensorSpec:
    """From the manifest's words. Raises `KeyError` on an unknown datatype."""
    return TensorSpec(name, DATATYPES[datatype], tuple(shape))
