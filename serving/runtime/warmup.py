"""Runs every batch size before the pod says it is ready, on real rows where the bundle has them.

It also finds out what a batch costs, which decides where batches run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from serving.runtime.execution import Executor
from serving.runtime.manifest import Manifest
from serving.runtime.signature import TensorSpec

_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Warmed:
    """Seconds a batch takes once warm (the median), by rows, rising."""

    seconds_by_rows: tuple[tuple[int, float], ...]

    @property
    def largest_batch_seconds(self) -> float:
        return self.seconds_by_rows[-1][1]

    @property
    def row_seconds(self) -> float:
        """What one more row adds to a batch."""
        (few, short), (many, long) = self.seconds_by_rows[0], self.seconds_by_rows[-1]
        return max((long - short) / (many - few), 0.0) if many > few else 0.0

    @property
    def fixed_seconds(self) -> float:
        """What a batch costs before its first row."""
        return max(self.one_row_seconds - self.row_seconds, 0.0)

    @property
    def one_row_seconds(self) -> float:
        return self.seconds_by_rows[0][1]


def warm(
    executor: Executor, manifest: Manifest, profiles: tuple[int, ...], clock: Callable[[], float]
) -> Warmed:
    """Run each size until it has been seen a few times. Raises what the engine raises: a pod that cannot
    answer its own warmup rows must not become ready."""
    rows = _warmup_rows(manifest)
    measured = []
    for size in _sizes(manifest, profiles):
        inputs = [_repeated(array, size) if manifest.signature.is_batched else array for array in rows]
        measured.append((size, _median_seconds(executor, inputs, clock)))
    return Warmed(tuple(measured))


def _median_seconds(executor: Executor, inputs: list[np.ndarray], clock: Callable[[], float]) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        start = clock()
        executor.run_arrays(inputs)
        seconds.append(clock() - start)
    return sorted(seconds)[_ROUNDS // 2]


def _sizes(manifest: Manifest, profiles: tuple[int, ...]) -> list[int]:
    limit = manifest.settings.max_batch_size
    if not manifest.signature.is_batched:
        return [1]
    doubling = [2**n for n in range(limit.bit_length()) if 2**n < limit]
    return sorted({1, *(profiles or doubling), limit})


def _warmup_rows(manifest: Manifest) -> list[np.ndarray]:
    if manifest.warmup is None:
        return [_zeros(spec) for spec in manifest.signature.inputs]
    with np.load(manifest.warmup, allow_pickle=False) as stored:
        return [_stored(stored[spec.name], spec) for spec in manifest.signature.inputs]


def _stored(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    if spec.datatype.name != "BYTES":
        return np.ascontiguousarray(array, spec.datatype.dtype)
    found = np.empty(array.shape, dtype=object)
    found[...] = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
    return found


def _zeros(spec: TensorSpec) -> np.ndarray:
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    if spec.datatype.name == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, spec.datatype.dtype)


def _repeated(rows: np.ndarray, size: int) -> np.ndarray:
    times = -(-size // len(rows))
    return np.ascontiguousarray(np.concatenate([rows] * times)[:size]) if times > 1 else rows[:size]
