"""Answers that need no computing: kept ones, and those already being computed for somebody else."""

from __future__ import annotations

from collections.abc import Callable

from model_store.errors import SlipwayError
from serving.runtime.cache.memory import BodyMemory, MemoryCache
from serving.runtime.call import Call, Outputs
from serving.runtime.flights import Flights
from serving.runtime.manifest import Manifest

_MEMORY = b"x-slipway-cache: memory\r\n"


class Answers:
    """One bundle's. `compute` starts a call on the engine (for a follower whose leader fell away)."""

    def __init__(self, manifest: Manifest, compute: Callable[[Call], None]) -> None:
        settings = manifest.settings
        capacity = int(settings.cache_mb * 1024 * 1024)
        self._signature = manifest.signature
        self._flights = Flights(self._relaunch)
        self._compute = compute
        self.memory = MemoryCache(capacity, settings.cache_ttl_seconds) if capacity else None
        self.bodies = BodyMemory(capacity // 4) if capacity else None
        self.shared_in_flight = 0

    @classmethod
    def of(cls, manifest: Manifest, compute: Callable[[Call], None]) -> Answers | None:
        """None for a model whose equal inputs may have different answers."""
        return None if manifest.settings.stochastic else cls(manifest, compute)

    def settle(self, call: Call, now: float) -> bool:
        """Whether the call is answered, or will be with another call's answer."""
        identity = call.identify(self._signature)
        if self.memory is not None:
            outputs = self.memory.get(identity, now)
            if outputs is not None:
                call.source = _MEMORY
                call.answered(outputs, 0)
                return True
        return not self._flights.leads(call)

    def answered(self, call: Call, outputs: Outputs, first: int, now: float) -> None:
        """The engine answered a leader: followers get the same, the cache keeps it."""
        self.shared_in_flight += self._flights.answered(call, outputs, first)
        if self.memory is not None:
            self.memory.put(call.identity, outputs.alone(first, call.rows), now)

    def failed(self, call: Call, error: SlipwayError) -> None:
        """A leader failed; what its followers get depends on why."""
        self._flights.failed(call, error)

    def stale(self, call: Call) -> Outputs | None:
        """A kept answer however old."""
        return self.memory.stale(call.identity) if self.memory is not None else None

    def _relaunch(self, call: Call) -> None:
        if self._flights.leads(call):
            self._compute(call)
