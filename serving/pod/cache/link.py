"""The pod's one connection to Redis, and the rule that it never costs a request more than a moment.

Look-ups of one turn of the event loop travel as one MGET with a short time limit. After a failure the link
rests for a while (longer after each), in which every look-up is a miss: the model answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio as redis

log = logging.getLogger("slipway.pod")

LOOK_UP_SECONDS = 0.03
_REST_SECONDS = (1.0, 30.0)
_MOST_UNWRITTEN = 4096
CHANNEL = "slipway:invalidate"
_MAC_BYTES = 16
# Of all pods that share answers; where nobody says one, the address of their Redis is it.
KEY_VARIABLE = "SLIPWAY_CACHE_KEY"

Found = Callable[[bytes | None], None]


# Invalidations of the model, and of this bundle alone.
Epoch = tuple[int, int]


def epoch_key(model: str, bundle: str = "") -> str:
    """Counts invalidations of a model, or of one bundle of it; part of every key, so that older answers are
    not found."""
    return f"slipway:epoch:{model}:{bundle}" if bundle else f"slipway:epoch:{model}"


class RedisLink:
    """All methods run on the event loop. `errors` and `is_resting` are for the metrics."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        # Who knows neither a key nor the address with its password has no answer taken for a pod's.
        self._key = hashlib.blake2b((os.environ.get(KEY_VARIABLE) or url).encode()).digest()
        self._client = redis.from_url(url, socket_connect_timeout=0.5, socket_timeout=1.0)
        self._clock = clock
        self._wanted: list[tuple[bytes, Found]] = []
        self._unwritten: list[tuple[bytes, bytes, int]] = []
        self._rests_until = 0.0
        self._rest_seconds = _REST_SECONDS[0]
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_writing = False
        self.errors = self.dropped_writes = 0

    def seal(self, key: bytes, value: bytes) -> bytes:
        """The value with a MAC that binds it to its key."""
        return self._mac(key, value) + value

    def unseal(self, key: bytes, sealed: bytes) -> bytes | None:
        """None for what no pod of this installation wrote under this key."""
        mac, value = sealed[:_MAC_BYTES], sealed[_MAC_BYTES:]
        return value if hmac.compare_digest(mac, self._mac(key, value)) else None

    def _mac(self, key: bytes, value: bytes) -> bytes:
        mac = hashlib.blake2b(len(key).to_bytes(4), digest_size=_MAC_BYTES, key=self._key)
        mac.update(key)
        mac.update(value)
        return mac.digest()

    @property
    def is_resting(self) -> bool:
        return self._clock() < self._rests_until

    def look_up(self, key: bytes, found: Found) -> bool:
        """Ask for a key; `found` gets its value or None soon. False: not now, nothing will come."""
        if self.is_resting:
            return False
        self._wanted.append((key, found))
        if len(self._wanted) == 1:
            self._start(self._fetch())
        return True

    def keep(self, key: bytes, value: bytes, ttl_seconds: float) -> None:
        """Store without waiting. Dropped when Redis rests or cannot keep up."""
        if self.is_resting or len(self._unwritten) >= _MOST_UNWRITTEN:
            self.dropped_writes += 1
            return
        self._unwritten.append((key, value, max(1, int(ttl_seconds * 1000))))
        if not self._is_writing:
            self._is_writing = True
            self._start(self._write())

    async def epoch(self, model: str, bundle: str) -> Epoch:
        """How often this model and this bundle were invalidated. Raises what redis raises."""
        of_model, of_bundle = await self._client.mget([epoch_key(model), epoch_key(model, bundle)])
        return int(of_model or 0), int(of_bundle or 0)

    async def listen(self, connected: Callable[[], Awaitable[None]], heard: Callable[[bytes], None]) -> None:
        """Hear invalidations for ever. After each connection `connected` catches up on what was missed."""
        while True:
            try:
                async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(CHANNEL)
                    await connected()
                    while True:
                        message = await channel.get_message(timeout=5.0)
                        if message is not None:
                            heard(message["data"])
            except (TimeoutError, redis.RedisError, OSError) as error:
                self._failed(error)
                await asyncio.sleep(self._rest_seconds)

    async def close(self) -> None:
        """Let writes under way end, then hang up."""
        for task in list(self._tasks):
            task.cancel()
        await self._client.aclose()

    async def _fetch(self) -> None:
        # One turn later, so that everything that arrived together travels together.
        await asyncio.sleep(0)
        wanted, self._wanted = self._wanted, []
        values: list[Any] = [None] * len(wanted)
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                values = await self._client.mget([key for key, _ in wanted])
            self._rest_seconds = _REST_SECONDS[0]
        except Exception as error:
            # Whatever it is, somebody waits for every one of these.
            self._failed(error)
        for (_, found), value in zip(wanted, values, strict=True):
            try:
                found(value)
            except Exception:
                log.exception("what Redis said broke the pod's own code")

    async def _write(self) -> None:
        try:
            while self._unwritten:
                batch, self._unwritten = self._unwritten, []
                async with asyncio.timeout(1.0), self._client.pipeline(transaction=False) as pipeline:
                    for key, value, milliseconds in batch:
                        pipeline.set(key, value, px=milliseconds)
                    await pipeline.execute()
        except (redis.RedisError, OSError, TimeoutError) as error:
            self._failed(error)
        finally:
            self._is_writing = False

    def _failed(self, error: BaseException) -> None:
        self.errors += 1
        if not self.is_resting:
            log.warning("Redis is slow or gone, answering without it for %g s: %r", self._rest_seconds, error)
        self._rests_until = self._clock() + self._rest_seconds
        self._rest_seconds = min(2 * self._rest_seconds, _REST_SECONDS[1])

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
