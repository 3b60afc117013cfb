"""Runs batches on an engine: joins the calls' rows, checks the results, cuts failures down to their cause.

Everything here may run on a compute thread; nothing here touches the event loop.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from model_store.engines.base import Engine, EngineLost, EngineOutOfMemory, ThreadBound
from model_store.engines.errors import ModelFault, RefusedByModel
from model_store.engines.manifest import Settings
from model_store.engines.signature import Shape, Signature, TensorSpec
from model_store.errors import SlipwayError
from serving.pod.call import BatchOutputs, Call, Data

EXIT_ENGINE_LOST = 3
log = logging.getLogger("slipway.pod")


def end_process(why: str) -> NoReturn:
    """At once: nothing in this process can compute any more. Whoever keeps the pod starts another."""
    log.critical("the pod ends, its GPU is lost: %s", why[:500])
    logging.shutdown()
    os._exit(EXIT_ENGINE_LOST)


@dataclass(frozen=True, slots=True)
class Executed:
    """Some calls of a batch and what became of them: outputs (rows in the calls' order) or an error."""

    calls: Sequence[Call]
    outcome: BatchOutputs | SlipwayError


class Executor:
    """One engine and the signature and limits it is held to. `end`: what becomes of a process whose engine is
    lost."""

    def __init__(
        self,
        engine: Engine,
        signature: Signature,
        settings: Settings,
        *,
        end: Callable[[str], NoReturn] = end_process,
    ) -> None:
        self._engine, self._end = engine, end
        self._signature = signature
        self._settings = settings
        self._most_rows = engine.profiles[-1] if engine.profiles else settings.max_batch_size
        # Batches that did not fit the device's memory.
        self.out_of_memory = 0

    def execute(self, calls: Sequence[Call]) -> list[Executed]:
        """Compute a batch. A failure is tried again in halves, so it stays with the calls that cause it."""
        try:
            return self._checked(calls, self._run(calls))
        except EngineLost as lost:
            self._end(str(lost))
        except Exception as error:
            if len(calls) == 1:
                return [Executed(calls, _as_fault(error))]
            middle = len(calls) // 2
            return self.execute(calls[:middle]) + self.execute(calls[middle:])

    def settle(self) -> None:
        """On a thread that will execute batches, before the first: see `ThreadBound`."""
        if isinstance(self._engine, ThreadBound):
            try:
                self._engine.settle()
            except EngineLost as lost:
                self._end(str(lost))

    def run_arrays(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute on arrays, in pieces the engine and its memory take.

        Raises what the engine raises, or `ModelFault` when the outputs are not what the manifest says.
        """
        rows = len(inputs[0]) if self._signature.is_batched else 1
        if not self._signature.is_batched or rows <= self._most_rows:
            return self._run_piece(inputs, rows)
        step = self._most_rows
        pieces = [self.run_arrays([a[at : at + step] for a in inputs]) for at in range(0, rows, step)]
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    def expect_finite(self, outputs: Sequence[np.ndarray]) -> None:
        """Raises `ModelFault` on NaN or infinity where the spec forbids them."""
        specs = self._signature.outputs
        if self._settings.finite_outputs and not all(map(_is_finite, outputs, specs)):
            raise ModelFault("the model gave NaN or infinity")

    def _run_piece(self, inputs: Sequence[np.ndarray], rows: int) -> list[np.ndarray]:
        padded = self._padded(rows)
        if padded != rows:
            inputs = [_padded_array(array, padded - rows) for array in inputs]
        try:
            outputs = self._engine.run(inputs)
        except EngineOutOfMemory:
            self.out_of_memory += 1
            if rows == 1 or not self._signature.is_batched:
                raise
            # For good: what did not fit once would not fit the next time either.
            self._most_rows = max(1, rows // 2)
            return self.run_arrays([array[:rows] for array in inputs])
        self._expect_shapes(outputs, padded)
        return outputs if padded == rows else [array[:rows] for array in outputs]

    def _run(self, calls: Sequence[Call]) -> list[np.ndarray]:
        rows = sum([call.rows for call in calls])
        staging = self._engine.staging(self._padded(rows)) if rows <= self._most_rows else None
        if staging is None:
            inputs: Sequence[np.ndarray] = [
                _joined(spec, [call.data[i] for call in calls], calls[0].shapes[i], rows, self._signature)
                for i, spec in enumerate(self._signature.inputs)
            ]
        else:
            for i, place in enumerate(staging):
                _write(place, [call.data[i] for call in calls], rows)
            inputs = staging
        if self._settings.finite_inputs:
            _expect_finite_inputs(self._signature, inputs)
        outputs = self.run_arrays(inputs)
        is_padded = self._signature.is_batched and len(inputs[0]) > rows
        return [array[:rows] for array in outputs] if is_padded else outputs

    def _padded(self, rows: int) -> int:
        if not self._signature.is_batched:
            return rows
        return next((size for size in self._engine.profiles if size >= rows), rows)

    def _expect_shapes(self, outputs: Sequence[np.ndarray], rows: int) -> None:
        for spec, array in zip(self._signature.outputs, outputs, strict=True):
            expected = (rows, *spec.shape[1:]) if self._signature.is_batched else spec.shape
            fits = len(expected) == array.ndim and all(
                want in (-1, got) for want, got in zip(expected, array.shape, strict=True)
            )
            if not fits or array.dtype != spec.datatype.dtype:
                raise ModelFault(
                    f"output {spec.name!r} is {array.dtype} {list(array.shape)}, "
                    f"the manifest says {spec.datatype.name} {list(expected)}"
                )

    def _checked(self, calls: Sequence[Call], arrays: list[np.ndarray]) -> list[Executed]:
        arrays = [np.ascontiguousarray(a) if not a.flags.c_contiguous else a for a in arrays]
        if self._settings.finite_outputs and not all(map(_is_finite, arrays, self._signature.outputs)):
            return self._split_off_broken(calls, arrays)
        return [Executed(calls, BatchOutputs(arrays, self._signature))]

    def _split_off_broken(self, calls: Sequence[Call], arrays: list[np.ndarray]) -> list[Executed]:
        """Only the calls whose own rows hold NaN or infinity fail."""
        executed, first = [], 0
        for call in calls:
            part = [a[first : first + call.rows] for a in arrays] if self._signature.is_batched else arrays
            first += call.rows
            healthy = all(map(_is_finite, part, self._signature.outputs))
            fault = ModelFault("the model gave NaN or infinity")
            executed.append(Executed([call], BatchOutputs(part, self._signature) if healthy else fault))
        return executed


def _joined(spec: TensorSpec, parts: list[Data], shape: Shape, rows: int, signature: Signature) -> np.ndarray:
    array = _join_bytes(spec, parts) if spec.datatype.size else _join_elements(parts)
    return array.reshape((rows, *shape[1:]) if signature.is_batched else shape)


def _write(place: np.ndarray, parts: list[Data], rows: int) -> None:
    """The calls' bytes one after another, and the last row again where the place is larger."""
    # Not by NumPy, which lets other threads run during each part: with a busy event loop, 32 parts of 150 kB
    # then took as long as the GPU's whole batch (H200).
    memory, at = place.reshape(-1).view(np.uint8).data, 0
    for part in parts:
        memory[at : at + len(part)] = part  # type: ignore[assignment]
        at += len(part)
    if place.ndim and rows < len(place):
        place[rows:] = place[rows - 1]


def _padded_array(array: np.ndarray, missing: int) -> np.ndarray:
    # The last row again, not zeros: padding must be input the model has been seen to accept.
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def _join_bytes(spec: TensorSpec, parts: list[Data]) -> np.ndarray:
    whole = parts[0] if len(parts) == 1 else b"".join(parts)  # type: ignore[arg-type]
    return np.frombuffer(whole, spec.datatype.dtype)  # type: ignore[arg-type]


def _join_elements(parts: list[Data]) -> np.ndarray:
    elements = [element for part in parts for element in part]
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def _is_finite(array: np.ndarray, spec: TensorSpec) -> bool:
    if not spec.datatype.is_float:
        return True
    if spec.datatype.name == "BF16":
        return not bool(((array & 0x7F80) == 0x7F80).any())
    return bool(np.isfinite(array).all())


def _expect_finite_inputs(signature: Signature, inputs: Sequence[np.ndarray]) -> None:
    for spec, array in zip(signature.inputs, inputs, strict=True):
        if not _is_finite(array, spec):
            raise RefusedByModel(
                f"input {spec.name!r} holds NaN (null in JSON) or infinity",
                remedy="send finite numbers (the spec's serving.finite_inputs: false allows others)",
            )


def _as_fault(error: Exception) -> SlipwayError:
    if isinstance(error, SlipwayError):
        return error
    if isinstance(error, EngineOutOfMemory):
        return ModelFault(f"one request does not fit the device's memory: {error}", remedy="send fewer rows")
    return ModelFault(f"the engine failed: {type(error).__name__}: {str(error)[:300]}")
