"""The engine port: arrays in, arrays out. Implementations pass `tests/contract/engine_contract.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from model_store.engines.manifest import Manifest
from model_store.errors import Permanent


class EngineOutOfMemory(Exception):  # noqa: N818 - never leaves the pod: the batch is halved and retried
    """The batch does not fit the device's memory."""


class EngineLost(Exception):  # noqa: N818 - never leaves the pod, which ends
    """The device is gone for this process: a kernel crashed, or the GPU fell off its bus. Only a new process
    can go on, and whoever asked meanwhile asks another pod."""


class Engine(Protocol):
    """A loaded model. `run` may be called from one thread at a time.

    `profiles`: batch sizes the engine was built for, rising; empty when any size costs what it should.
    """

    platform: str
    profiles: tuple[int, ...]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute one batch: arrays in the order of the signature's inputs, results in that of its outputs.

        BF16 travels as uint16, BYTES as object arrays of `bytes`.
        Raises `EngineOutOfMemory`, `EngineLost`, or whatever the engine raises when the model itself fails.
        """
        ...

    def staging(self, rows: int) -> Sequence[np.ndarray] | None:
        """Where the inputs of so many rows may be written before `run` gets these very arrays.

        Memory that a device reads without another copy; the next batch uses it again. None where there is
        no such place: `run` then gets arrays of the caller's.
        """
        ...

    def memory_bytes(self) -> int:
        """Device memory in use, 0 where the engine shares the process's own."""
        ...

    def close(self) -> None:
        """Give memory back. The engine is not used again."""
        ...


@runtime_checkable
class Supervised(Protocol):
    """What an engine is besides that runs the model in a process of its own: it may end, and comes back.

    `restarts`: how often it had to.
    """

    restarts: int

    @property
    def is_up(self) -> bool:
        """Whether the model would answer now."""
        ...


@runtime_checkable
class ThreadBound(Protocol):
    """What an engine is besides that keeps something for each thread that runs it."""

    def settle(self) -> None:
        """Make everything ready that this thread needs: its first batch is then as fast as the hundredth."""
        ...


class UnknownEngine(Permanent):
    """The manifest names a platform this pod has no engine for."""

    def __init__(self, platform: str, *, known: Sequence[str]) -> None:
        super().__init__(
            f"no engine for platform {platform!r}",
            remedy=f"publish the bundle for one of: {', '.join(known)}",
        )


EngineFactory = Callable[[Manifest], Engine]
