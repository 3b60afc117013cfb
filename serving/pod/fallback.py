"""What to answer when the model cannot: an old answer, a constant, another model. Off by default.

The spec's `serving.fallback` is one of {"stale": true}, {"constant": {"<output>": [values of one row]}},
{"model": "<name of another model this pod serves>"}. The answer says so in the header x-slipway-fallback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from model_store.engines.errors import Expired, ModelFault, Unavailable, status_of
from model_store.engines.signature import Signature, TensorSpec
from model_store.errors import Permanent, SlipwayError
from serving.pod.call import BatchOutputs, Call
from serving.pod.telemetry import ModelMetrics

# Only what the model or the load did; a client's own mistake is answered as such.
COVERED = (Unavailable, ModelFault, Expired)
KINDS = ("stale", "constant", "model")


class FallbackAnswers:
    """`stale` looks an answer up however old; `relay` sends the call to another model of this pod."""

    def __init__(
        self,
        wish: dict[str, Any],
        signature: Signature,
        metrics: ModelMetrics,
        *,
        stale: Callable[[Call], BatchOutputs | None],
        relay: Callable[[str, Call], None],
    ) -> None:
        unknown = set(wish) - set(KINDS)
        if unknown or len(wish) != 1:
            raise Permanent(f"serving.fallback is {wish}", remedy=f"name exactly one of {', '.join(KINDS)}")
        self._signature, self._metrics, self._stale, self._relay = signature, metrics, stale, relay
        self._model = str(wish.get("model", ""))
        self._constant = _constant_row(wish["constant"], signature) if "constant" in wish else None

    def answer(self, call: Call) -> bool:
        """Answer instead of failing; False when there is nothing to answer with."""
        if self._model:
            call.source = b"x-slipway-fallback: %s\r\n" % self._model.encode("ascii", "replace")
            self._relay(self._model, call)
        elif self._constant is not None:
            call.source = b"x-slipway-fallback: constant\r\n"
            repeated = [np.repeat(row, call.rows, axis=0) for row in self._constant]
            call.answered(BatchOutputs(repeated, self._signature), 0)
        else:
            outputs = self._stale(call)
            if outputs is None:
                return False
            call.source = b"x-slipway-fallback: stale\r\n"
            call.answered(outputs, 0)
        self._metrics.fallbacks += 1
        return True


class RelayedCall(Call):
    """A call made to another model on behalf of one that could not be answered."""

    __slots__ = ("_original", "_record")

    def __init__(
        self,
        original: Call,
        signature: Signature,
        record: Callable[[Call, int, BatchOutputs | None, int], None],
    ) -> None:
        super().__init__(original.data, original.shapes, signature)
        self._original, self._record = original, record
        self.priority, self.timeout = original.priority, original.timeout

    @property
    def is_abandoned(self) -> bool:
        return self._original.is_abandoned

    def answered(self, outputs: BatchOutputs, first: int) -> None:
        try:
            self._record(self, 200, outputs, first)
        finally:
            self._original.answered(outputs, first)

    def failed(self, error: SlipwayError) -> None:
        try:
            self._record(self, status_of(error), None, 0)
        finally:
            self._original.source = b""
            self._original.failed(error)


def _constant_row(values: dict[str, Any], signature: Signature) -> list[np.ndarray]:
    if set(values) != {spec.name for spec in signature.outputs} or not signature.is_batched:
        raise Permanent(
            f"serving.fallback.constant names {sorted(values)}",
            remedy=f"give one row for each of {[spec.name for spec in signature.outputs]} of a batched model",
        )
    return [_row(values[spec.name], spec) for spec in signature.outputs]


def _row(values: Any, spec: TensorSpec) -> np.ndarray:
    shape = (1, *spec.shape[1:])
    try:
        if spec.datatype.name == "BYTES":
            values = [str(value).encode() for value in np.ravel(values)]
        return np.array(values, spec.datatype.dtype).reshape(shape)
    except (ValueError, TypeError) as error:
        raise Permanent(
            f"serving.fallback.constant.{spec.name}: {error}", remedy=f"give the values of shape {shape}"
        ) from error
