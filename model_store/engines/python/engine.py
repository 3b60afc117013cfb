"""The engine port for a model that is served as it is (`flavor: pyfunc`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_store.engines.manifest import Manifest
from model_store.engines.python import SERVE_FILE
from model_store.engines.python.environment import LOCK_FILE, MODEL_FOLDER, interpreter
from model_store.engines.python.process import ModelProcess, Worker
from model_store.engines.python.wheels import WHEELS_FOLDER

# A batch that takes longer has lost its callers: they waited `timeout_ms`, queueing included.
_TIMEOUTS = 2.0
_LEAST_SECONDS = 2.0


class PythonEngine:
    """One process of the model's own Python, which is there again soon after it ends."""

    platform = "python"
    profiles: tuple[int, ...] = ()

    def __init__(self, manifest: Manifest) -> None:
        signature, settings = manifest.signature, manifest.settings
        self._header: dict[str, Any] = {
            "inputs": [spec.name for spec in signature.inputs],
            "outputs": [[spec.name, spec.datatype.name, list(spec.shape)] for spec in signature.outputs],
        }
        seconds = max(_TIMEOUTS * settings.timeout_ms / 1000, _LEAST_SECONDS)
        folder, threads = manifest.file.parent, settings.threads
        self._process = open_process(
            folder,
            threads=threads,
            seconds=seconds,
            before=manifest.attest,
            may_be_unboxed=manifest.trusted is not None,
            max_memory_mb=settings.max_memory_mb,
        )

    @property
    def is_up(self) -> bool:
        """See `Supervised`."""
        return self._process.is_up

    @property
    def restarts(self) -> int:
        """See `Supervised`."""
        return self._process.restarts

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._process.ask(self._header, inputs)

    def staging(self, rows: int) -> Sequence[np.ndarray] | None:
        """None: rows go to the process as they are."""
        return None

    def memory_bytes(self) -> int:
        return self._process.memory_bytes()

    def close(self) -> None:
        self._process.close()


def open_process(
    folder: Path,
    *,
    threads: int,
    seconds: float,
    before: Callable[[], None] = lambda: None,
    may_be_unboxed: bool = False,
    max_memory_mb: float = 0,
) -> ModelProcess:
    """The model in `folder`, loaded. `before` is asked before each start of its process; see `Worker`.
    `max_memory_mb`: 0 for any.

    Raises `Permanent` without its environment, or if it cannot load; and what `before` raises.
    """
    serves = json.loads((folder / SERVE_FILE).read_text())
    python = interpreter(
        folder / LOCK_FILE, serves["python"], beside=folder / MODEL_FOLDER, wheels=folder / WHEELS_FOLDER
    )

    def start() -> Worker:
        before()
        return Worker(python, folder, threads=threads, seconds=seconds, may_be_unboxed=may_be_unboxed)

    return ModelProcess(start, max_memory_bytes=round(max_memory_mb * 1e6))


def open_engine(manifest: Manifest) -> PythonEngine:
    """Raises as `open_process`."""
    return PythonEngine(manifest)
