"""A bundle made ready to serve: what takes long, done off the event loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from model_store.attestation import Trusted
from model_store.engines.base import Engine
from model_store.engines.manifest import Manifest, read_attested
from model_store.engines.registry import open_engine
from serving.pod.admission import ConcurrencyLimit
from serving.pod.execution import Executor
from serving.pod.sizes import Sizes
from serving.pod.warmup import Warmed, warm

# Below this, waiting is the event loop's own time and says nothing about the engine.
_LEAST_TARGET_SECONDS = 0.005


class OpenedModel:
    """A bundle read, its engine loaded and warm. Raises `Permanent` where it cannot be served, and where its
    bytes are not what one of the `trusted` signed (None: nobody has to have).
    """

    def __init__(
        self,
        bundle: Path,
        clock: Callable[[], float],
        request_log: Path | None = None,
        trusted: Trusted | None = None,
    ) -> None:
        self.manifest: Manifest = read_attested(bundle, trusted)
        self.engine: Engine = open_engine(self.manifest)
        self.executor = Executor(self.engine, self.manifest.signature, self.manifest.settings)
        self.warmed: Warmed = warm(self.executor, self.manifest, self.engine.profiles, clock, request_log)
        self.sizes = Sizes.measured(self.manifest, self.warmed)
        signature = self.manifest.signature.limited(
            self.sizes.row_elements, self.sizes.max_rows, self.sizes.max_json_rows
        )
        self.manifest = replace(self.manifest, signature=signature)

    def limit(self) -> ConcurrencyLimit:
        """How many requests it may have in flight."""
        settings, warmed = self.manifest.settings, self.warmed
        target = settings.target_queue_ms / 1000 or max(warmed.largest_batch_seconds, _LEAST_TARGET_SECONDS)
        return ConcurrencyLimit(
            floor=settings.min_concurrency or 2 * settings.max_batch_size,
            ceiling=settings.max_queue_rows,
            target_seconds=target,
            row_seconds=warmed.cheapest_row_seconds,
        )
