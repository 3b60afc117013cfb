"""The first cache level: in the process, bounded by bytes, frequency-aware.

moka (W-TinyLFU: a newcomer must be asked for more often than what it would push out, so a scan of one-time
requests does not empty the cache). Why moka: docs/decisions/0023-caches.md.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from moka_py import Moka

from serving.pod.call import BatchOutputs
from serving.pod.codec.request import InferRequest
from serving.pod.telemetry import LookUps

# Python objects around an entry: the tuple, the Outputs, the array headers, moka's node.
_ENTRY_BYTES = 700


class Stored(NamedTuple):
    """An answer, when it was stored (seconds of the pod's clock), and what keeping it costs."""

    outputs: BatchOutputs
    at: float
    weight: int


class MemoryCache:
    """One bundle's answers by `Call.identity`. Entries past their time stay, to be taken stale."""

    def __init__(self, capacity_bytes: int, ttl_seconds: float, counts: LookUps) -> None:
        self._ttl, self.counts = ttl_seconds, counts
        self._entries: Moka[Hashable, Stored] = Moka(capacity_bytes, weigher=_weigh)

    def get(self, identity: Hashable, now: float) -> BatchOutputs | None:
        """The fresh answer, if kept; counts a hit or a miss."""
        outputs = self.hit(identity, now)
        if outputs is None:
            self.counts.misses += 1
        return outputs

    def hit(self, identity: Hashable, now: float) -> BatchOutputs | None:
        """The fresh answer, if kept; counts only hits, for a caller who asks again with `get`."""
        stored = self._entries.get(identity)
        if stored is None or now - stored.at > self._ttl:
            return None
        self.counts.hits += 1
        return stored.outputs

    def stale(self, identity: Hashable) -> BatchOutputs | None:
        """The answer however old, if still kept."""
        stored = self._entries.get(identity)
        return None if stored is None else stored.outputs

    def put(self, identity: Hashable, outputs: BatchOutputs, now: float) -> None:
        """Keep an answer (already `Outputs.alone`)."""
        weight = _ENTRY_BYTES + _identity_bytes(identity) + outputs.size_bytes()
        self._entries.set(identity, Stored(outputs, now, weight))

    def clear(self) -> None:
        self._entries.clear()

    def size_bytes(self) -> int:
        self._entries.run_pending_tasks()
        return self._entries.weighted_size()

    def entries(self) -> int:
        return self._entries.count()


class BodyMemory:
    """Parsed large JSON bodies by their digest: parsing one costs more than everything else a hit does."""

    def __init__(self, capacity_bytes: int) -> None:
        self._parsed: Moka[bytes, InferRequest] = Moka(capacity_bytes, weigher=_weigh_parsed)

    def get(self, digest: bytes) -> InferRequest | None:
        return self._parsed.get(digest)

    def put(self, digest: bytes, request: InferRequest) -> None:
        self._parsed.set(digest, request)


def _weigh(identity: Hashable, stored: Stored) -> int:
    return stored.weight


def _weigh_parsed(digest: bytes, request: InferRequest) -> int:
    return _ENTRY_BYTES + sum(_identity_bytes(part) for part in request.data)


def _identity_bytes(identity: object) -> int:
    if isinstance(identity, bytes | memoryview):
        return len(identity) + 33
    if isinstance(identity, tuple | list):
        return 56 + sum(_identity_bytes(part) for part in identity)
    return 32
