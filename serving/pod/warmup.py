"""Makes a model warm before the pod says it is ready: kernels and memory by running every batch size on real
rows, the cache by computing what the request log says is asked for most.

It also finds out what a batch costs, which decides where batches run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_store.engines.manifest import Manifest
from model_store.engines.signature import TensorSpec
from serving.pod.call import BatchOutputs, Call
from serving.pod.execution import Executor

log = logging.getLogger("slipway.pod")

# A window is so many runs; windows go on until two in a row agree, or time is up.
_WINDOW = 6
_AGREE = 1.25
_SIZE_SECONDS = 0.15

# A batch that takes no longer may run on the event loop: handing it to a thread and back, and sharing the
# interpreter with that thread, costs more than keeping the next requests waiting for so long.
_SHORT_SECONDS = 0.0006
_NEARLY_AS_CHEAP = 1.5

_CACHE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Warmed:
    """Seconds a batch takes once warm, by rows, rising; and answers to start the cache with.

    `row_elements` and `row_answers`: the elements of a row in each input, and in all outputs together. A row
    has 0 where inputs have free lengths and there are no real rows to tell by.
    """

    seconds_by_rows: tuple[tuple[int, float], ...]
    row_elements: tuple[int, ...]
    row_answers: int
    answers: tuple[tuple[Call, BatchOutputs], ...] = ()

    @property
    def largest_batch_seconds(self) -> float:
        return self.seconds_by_rows[-1][1]

    @property
    def one_row_seconds(self) -> float:
        return self.seconds_by_rows[0][1]

    @property
    def short_batch_rows(self) -> int:
        """The largest batch short enough for the event loop whose rows cost hardly more than in the cheapest
        one; 0 when there is none, so that batches are better large and run elsewhere."""
        cheapest = self.cheapest_row_seconds
        fit = [
            rows
            for rows, seconds in self.seconds_by_rows
            if seconds <= _SHORT_SECONDS and seconds / rows <= _NEARLY_AS_CHEAP * cheapest
        ]
        return max(fit, default=0)

    @property
    def cheapest_row_seconds(self) -> float:
        """A row's part of the batch whose rows are cheapest."""
        return min(seconds / rows for rows, seconds in self.seconds_by_rows)

    @property
    def row_seconds(self) -> float:
        """What one more row adds to a batch."""
        (few, short), (many, long) = self.seconds_by_rows[0], self.seconds_by_rows[-1]
        return max((long - short) / (many - few), 0.0) if many > few else 0.0

    @property
    def fixed_seconds(self) -> float:
        """What a batch costs before its first row."""
        return max(self.one_row_seconds - self.row_seconds, 0.0)


def warm(
    executor: Executor,
    manifest: Manifest,
    profiles: tuple[int, ...],
    clock: Callable[[], float],
    request_log: Path | None = None,
) -> Warmed:
    """Run each size until its times have settled.

    Raises what the engine raises: a pod that cannot answer its own warmup rows must not become ready.
    """
    rows = _warmup_rows(manifest)
    outputs = executor.run_arrays(rows)
    if manifest.warmup is not None:
        executor.expect_finite(outputs)
    count = len(rows[0]) if manifest.signature.is_batched else 1
    measured = []
    for size in _sizes(manifest, profiles):
        inputs = [_repeated(array, size) if manifest.signature.is_batched else array for array in rows]
        measured.append((size, _settled_seconds(executor, inputs, clock)))
    answers: tuple[tuple[Call, BatchOutputs], ...] = ()
    if request_log is not None and manifest.settings.cache is not None:
        answers = _frequent_answers(executor, manifest, request_log, clock)
    is_told = manifest.warmup is not None or manifest.signature.is_static
    row_elements = tuple(max(array.size // count, 1) if is_told else 0 for array in rows)
    row_answers = sum(array.size for array in outputs) // count
    return Warmed(tuple(measured), row_elements, row_answers, answers)


def _settled_seconds(executor: Executor, inputs: list[np.ndarray], clock: Callable[[], float]) -> float:
    """The shortest run, once a window's slowest agrees with that of the window before: cold is now warm.

    The shortest, because where batches run is decided by it for the pod's whole life: other work on the
    machine while the pod starts can only make a run longer.
    """
    give_up = clock() + _SIZE_SECONDS
    before = shortest = float("inf")
    while True:
        window = sorted(_timed(executor, inputs, clock) for _ in range(_WINDOW))
        shortest = min(shortest, window[0])
        if before / _AGREE <= window[-1] <= before * _AGREE or clock() > give_up:
            return shortest
        before = window[-1]


def _timed(executor: Executor, inputs: list[np.ndarray], clock: Callable[[], float]) -> float:
    start = clock()
    executor.run_arrays(inputs)
    return clock() - start


def _frequent_answers(
    executor: Executor, manifest: Manifest, request_log: Path, clock: Callable[[], float]
) -> tuple[tuple[Call, BatchOutputs], ...]:
    """Compute the log's inputs, the most frequent first, until all are, the cache is full, or time is up.

    Also what was asked only once is worth it: of a long tail it is a part of every hundred requests to come.
    """
    from serving.pod.recording.reader import RecordedInput, most_frequent

    settings = manifest.settings
    assert settings.cache is not None
    room = settings.cache.max_mb * 1024 * 1024
    give_up = clock() + _CACHE_SECONDS
    answers: list[tuple[Call, BatchOutputs]] = []
    batch: list[RecordedInput] = []
    for asked in most_frequent(request_log, manifest.name, manifest.signature, limit=1_000_000):
        batch.append(asked)
        if len(batch) < settings.max_batch_size:
            continue
        found = _computed(executor, [one.call for one in batch])
        answers += found
        room -= sum(outputs.size_bytes() + 1024 for _, outputs in found)
        batch = []
        if room < 0 or clock() > give_up:
            break
    answers += _computed(executor, [one.call for one in batch])
    log.info(
        "%s v%s: %d answers computed from the request log", manifest.name, manifest.version, len(answers)
    )
    return tuple(answers)


def _computed(executor: Executor, calls: Sequence[Call]) -> list[tuple[Call, BatchOutputs]]:
    answers: list[tuple[Call, BatchOutputs]] = []
    groups: dict[object, list[Call]] = {}
    for call in calls:
        groups.setdefault(call.key, []).append(call)
    for alike in groups.values():
        for part in executor.execute(alike):
            if isinstance(part.outcome, BatchOutputs):
                answers += _cut(part.calls, part.outcome)
    return answers


def _cut(calls: Sequence[Call], outputs: BatchOutputs) -> list[tuple[Call, BatchOutputs]]:
    first, parts = 0, []
    for call in calls:
        parts.append((call, outputs.alone(first, call.rows)))
        first += call.rows
    return parts


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
    if spec.datatype.size:
        return np.ascontiguousarray(array, spec.datatype.dtype)
    found = np.empty(array.size, dtype=object)
    found[:] = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
    return found.reshape(array.shape)


def _zeros(spec: TensorSpec) -> np.ndarray:
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    if not spec.datatype.size:
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, spec.datatype.dtype)


def _repeated(rows: np.ndarray, size: int) -> np.ndarray:
    times = -(-size // len(rows))
    return np.ascontiguousarray(np.concatenate([rows] * times)[:size]) if times > 1 else rows[:size]
