"""What a model shares with its pod."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.pod.cache.link import RedisLink
    from serving.pod.model import ServedModel
    from serving.pod.tracing import Tracer


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`relay` finds another model by name for a fallback."""

    slot: str
    faults: str
    chance: random.Random
    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]
    relay: Callable[[str], ServedModel]
    link: RedisLink | None = None
    request_log: Path | None = None
    tracer: Tracer | None = None
