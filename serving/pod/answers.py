"""Answers that need no computing: kept ones, and those already being computed for somebody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import orjson

from model_store.engines.manifest import Manifest
from model_store.errors import SlipwayError
from serving.pod.cache.memory import BodyMemory, MemoryCache
from serving.pod.call import BatchOutputs, Call
from serving.pod.flights import Fail, Flights
from serving.pod.telemetry import ModelMetrics

if TYPE_CHECKING:
    from serving.pod.cache.link import Epoch, RedisLink
    from serving.pod.cache.shared import SharedCache

FROM_MEMORY = b"x-slipway-cache: memory\r\n"
_REDIS = b"x-slipway-cache: redis\r\n"


def _fail(call: Call, error: SlipwayError) -> None:
    call.failed(error)


class Answers:
    """One bundle's. `compute` starts a call on the engine; `fail` ends one that shared another's failure."""

    def __init__(
        self,
        manifest: Manifest,
        compute: Callable[[Call], None],
        *,
        fail: Fail,
        metrics: ModelMetrics,
        link: RedisLink | None,
        clock: Callable[[], float],
    ) -> None:
        self._signature, self.bundle = manifest.signature, manifest.id
        self._flights = Flights(self._lead_or_follow, fail)
        self._compute, self._clock = compute, clock
        self.memory: MemoryCache | None = None
        self.bodies: BodyMemory | None = None
        self.shared: SharedCache | None = None
        self._metrics = metrics
        if manifest.settings.cache is not None:
            self._add_caches(manifest, link)

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        compute: Callable[[Call], None],
        *,
        fail: Fail = _fail,
        metrics: ModelMetrics | None = None,
        link: RedisLink | None = None,
        clock: Callable[[], float],
    ) -> Answers | None:
        """None for a model whose equal inputs may have different answers."""
        if manifest.settings.stochastic:
            return None
        return cls(manifest, compute, fail=fail, metrics=metrics or ModelMetrics(), link=link, clock=clock)

    def settle(self, call: Call, now: float) -> bool:
        """Whether the call is answered, or will be without another computation."""
        identity = call.identify(self._signature)
        if self.memory is not None:
            outputs = self.memory.get(identity, now)
            if outputs is not None:
                call.source = FROM_MEMORY
                call.answered(outputs, 0)
                return True
        if not self._flights.leads(call):
            return True
        return self.shared is not None and self.shared.look_up(call, self._looked_up)

    def answered(self, call: Call, outputs: BatchOutputs, first: int, now: float) -> None:
        """The engine answered a leader: followers get the same, the caches keep it."""
        self._metrics.shared_in_flight += self._flights.answered(call, outputs, first, now)
        if self.memory is not None:
            alone = outputs.alone(first, call.rows)
            self.memory.put(call.identity, alone, now)
            if self.shared is not None:
                self.shared.keep(call, alone)

    def failed(self, call: Call, error: SlipwayError) -> None:
        """A leader failed; what its followers get depends on why."""
        self._flights.failed(call, error)

    def stale(self, call: Call) -> BatchOutputs | None:
        """A kept answer however old."""
        return self.memory.stale(call.identify(self._signature)) if self.memory is not None else None

    def fill(self, kept: Iterable[tuple[Call, BatchOutputs]]) -> None:
        """Answers that warmup computed."""
        now = self._clock()
        for call, outputs in kept:
            if self.memory is not None:
                self.memory.put(call.identify(self._signature), outputs, now)

    def heard(self, epoch: int, bundle: str) -> None:
        """Somebody invalidated the model, or with `bundle` only that one of it, for the `epoch`th time."""
        if self.shared is None or self.shared.epoch is None or bundle not in ("", self.bundle):
            return
        of_model, of_bundle = self.shared.epoch
        self.invalidated((of_model, epoch) if bundle else (epoch, of_bundle))

    def invalidated(self, epoch: Epoch) -> None:
        """The model's answers are void; `epoch` is part of the keys from now on."""
        if self.shared is None or self.shared.epoch == epoch:
            return
        if self.shared.epoch is not None and self.memory is not None:
            self.memory.clear()
        self.shared.epoch = epoch

    def _looked_up(self, call: Call, outputs: BatchOutputs | None) -> None:
        if outputs is None:
            self._compute(call)
            return
        now = self._clock()
        if self.memory is not None:
            self.memory.put(call.identity, outputs, now)
        call.source = _REDIS
        try:
            call.answered(outputs, 0)
        finally:
            self._flights.answered(call, outputs, 0, now)

    def _lead_or_follow(self, call: Call) -> None:
        if self._flights.leads(call):
            self._compute(call)

    def _add_caches(self, manifest: Manifest, link: RedisLink | None) -> None:
        settings = manifest.settings.cache
        assert settings is not None
        capacity = int(settings.max_mb * 1024 * 1024)
        self.memory = MemoryCache(capacity, settings.ttl_seconds, self._metrics.level("memory"))
        self.bodies = BodyMemory(capacity // 4)
        if link is not None and settings.shared:
            # Imported here: redis takes a tenth of a second that pods without it need not spend.
            from serving.pod.cache.shared import SharedCache

            counts = self._metrics.level("redis")
            self.shared = SharedCache(link, manifest.id, self._signature, settings.ttl_seconds, counts)


async def follow_invalidations(link: RedisLink, models: Callable[[], dict[str, list[Answers]]]) -> None:
    """Keep every model's epoch up to date, for as long as the pod lives."""

    async def catch_up() -> None:
        for name, known in models().items():
            for answers in known:
                answers.invalidated(await link.epoch(name, answers.bundle))

    def heard(message: bytes) -> None:
        try:
            found = orjson.loads(message)
            for answers in models().get(found["model"], []):
                answers.heard(int(found["epoch"]), str(found.get("bundle", "")))
        except (ValueError, KeyError, TypeError):
            return  # somebody else's message on our channel

    await link.listen(catch_up, heard)
