"""Calls that remember what became of them, and an engine that does as it is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_store.engines.manifest import Manifest, Settings
from model_store.engines.signature import Signature, tensor_spec
from model_store.errors import SlipwayError
from serving.pod.call import BatchOutputs, Call

SIGNATURE = Signature.of((tensor_spec("x", "FP32", [-1, 2]),), (tensor_spec("y", "FP32", [-1, 2]),))


class RememberedCall(Call):
    """`values` are the answer's rows, `error` its failure."""

    def __init__(self, *rows: Sequence[float], priority: int = 1, deadline: float = float("inf")) -> None:
        array = np.array(rows, np.float32)
        super().__init__([array.tobytes()], [array.shape], SIGNATURE)
        self.priority, self.deadline = priority, deadline
        self.values: list[list[float]] | None = None
        self.error: SlipwayError | None = None
        self.left = False

    @property
    def is_abandoned(self) -> bool:
        return self.left

    def answered(self, outputs: BatchOutputs, first: int) -> None:
        assert (self.values, self.error) == (None, None), "answered twice"
        self.values = outputs.slice(0, first, self.rows).tolist()

    def failed(self, error: SlipwayError) -> None:
        assert (self.values, self.error) == (None, None), "answered twice"
        self.error = error


class ScriptedEngine:
    """Doubles its input, unless `run_instead` says otherwise; remembers the batch sizes it was given."""

    platform = "scripted"

    def __init__(self, profiles: tuple[int, ...] = ()) -> None:
        self.profiles = profiles
        self.batches: list[int] = []

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.batches.append(len(inputs[0]))
        return self.run_instead(inputs[0])

    def run_instead(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows * 2]

    def staging(self, rows: int) -> Sequence[np.ndarray] | None:
        return None

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


class StagingEngine(ScriptedEngine):
    """One that takes rows in memory of its own, which every batch of a size uses again."""

    def __init__(self) -> None:
        super().__init__(profiles=(4, 16, 64))
        self.places = {size: np.full((size, 2), np.nan, np.float32) for size in self.profiles}

    def staging(self, rows: int) -> Sequence[np.ndarray] | None:
        return [self.places[rows]] if rows in self.places else None

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert inputs[0] is self.places[len(inputs[0])], "it was copied once more"
        return super().run(inputs)


def manifest_of(settings: Settings, signature: Signature = SIGNATURE) -> Manifest:
    return Manifest("id", "m", "1", "scripted", "fp32", "", Path(), None, signature, settings, {}, {})
