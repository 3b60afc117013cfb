"""The second cache level: one bundle's answers in Redis, for all replicas.

Keys are the bundle's id, the model's epoch and the digest of the canonical input, so no version answers for
another, and an invalidation makes everything older unfindable at once. Run Redis with
`maxmemory-policy allkeys-lfu`: it then keeps what is asked for most, as the first level does.
"""

from __future__ import annotations

from collections.abc import Callable

from model_store.engines.signature import Signature
from serving.pod.cache.link import Epoch, RedisLink
from serving.pod.call import BatchOutputs, Call
from serving.pod.codec.parcel import unwrap, wrap
from serving.pod.identity import digest
from serving.pod.telemetry import LookUps


class SharedCache:
    """`epoch` is set when the pod learns it; before that nothing is looked up or kept."""

    def __init__(
        self, link: RedisLink, bundle_id: str, signature: Signature, ttl_seconds: float, counts: LookUps
    ) -> None:
        self._link, self._signature, self._ttl, self.counts = link, signature, ttl_seconds, counts
        self._prefix = f"slipway:answer:{bundle_id}:"
        self.epoch: Epoch | None = None

    def look_up(self, call: Call, found: Callable[[Call, BatchOutputs | None], None]) -> bool:
        """Ask Redis; `found` follows. False: it will not, compute."""
        if self.epoch is None:
            return False
        key = self._key(call)
        return self._link.look_up(key, lambda value: self._arrived(call, key, value, found))

    def keep(self, call: Call, outputs: BatchOutputs) -> None:
        """Store a call's own outputs (already `Outputs.alone`)."""
        if self.epoch is not None and not self._link.is_resting:
            key = self._key(call)
            self._link.keep(key, self._link.seal(key, wrap(outputs)), self._ttl)

    def _arrived(
        self, call: Call, key: bytes, sealed: bytes | None, found: Callable[[Call, BatchOutputs | None], None]
    ) -> None:
        value = self._link.unseal(key, sealed) if sealed is not None else None
        outputs = unwrap(value, self._signature) if value is not None else None
        if outputs is None:
            self.counts.misses += 1
        else:
            self.counts.hits += 1
        found(call, outputs)

    def _key(self, call: Call) -> bytes:
        of_model, of_bundle = self.epoch or (0, 0)
        return f"{self._prefix}{of_model}.{of_bundle}:".encode() + digest(call)
