"""What the driver and /proc say of a pod, asked on a thread of its own.

NVML takes milliseconds, and of a GPU that fell off its bus it may never answer; a walk through the processes
of a model that is served as it is takes as long as there are processes. The event loop waits for neither.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from model_store.engines import nvml
from model_store.engines.registry import ON_GPUS
from serving.pod.model import ServedModel

log = logging.getLogger("slipway.pod")

# A driver that takes longer says nothing.
PATIENCE_SECONDS = 2.0
SILENT = "its driver does not answer"


@dataclass(frozen=True, slots=True)
class Measured:
    """`gpu`: None where there is none, or it does not answer; `lost`: why it computes no more, in words, ""
    while it does. `engine_bytes`: by model and version.
    """

    gpu: nvml.GpuReading | None = None
    lost: str = ""
    engine_bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)


class Measuring:
    """One question at a time: while one is unanswered nobody asks another."""

    def __init__(
        self, models: Callable[[], Sequence[ServedModel]], *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._models, self._patience = models, patience_seconds
        self._thread = ThreadPoolExecutor(1, "measure")
        self._asked: asyncio.Future[Measured] | None = None
        self._last = Measured()

    @property
    def is_on_gpu(self) -> bool:
        """Whether some model of the pod computes on a GPU."""
        return any(model.engine.platform in ON_GPUS for model in self._models())

    async def now(self) -> Measured:
        """As it is, or what is known where that takes longer than there is patience for."""
        if self._asked is None:
            loop = asyncio.get_running_loop()
            self._asked = loop.run_in_executor(self._thread, _measure, self._models(), self.is_on_gpu)
        asked = self._asked
        done, _ = await asyncio.wait((asked,), timeout=self._patience)
        if not done:
            lost = SILENT if self.is_on_gpu else ""
            return Measured(None, lost, self._last.engine_bytes)
        if self._asked is asked:
            self._asked = None
        self._last = asked.result()
        return self._last


def _measure(models: Sequence[ServedModel], is_on_gpu: bool) -> Measured:
    lost = nvml.lost() if is_on_gpu else ""
    reading = nvml.reading() if is_on_gpu and not lost else None
    return Measured(reading, lost, {(each.name, each.version): _bytes(each) for each in models})


def _bytes(model: ServedModel) -> int:
    """0 of one that was unloaded meanwhile."""
    try:
        return model.engine.memory_bytes()
    except Exception as error:
        log.info("no memory is told of %s: %s", model.name, error)
        return 0
