"""Now, by two clocks: the wall's, which people set, and the machine's uptime, which nobody does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Instant:
    """`uptime` in seconds counts from the start of the machine that `boot` names; "" if nothing does."""

    at: datetime
    uptime: float
    boot: str


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Names this start of the machine, for all processes and containers on it."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
