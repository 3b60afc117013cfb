"""Values that are good for a moment, however many people ask for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Brief(Generic[T]):
    """What `make` returned, for `seconds`. Only one thread makes it; the others wait for that."""

    def __init__(self, make: Callable[[], T], *, seconds: float, monotonic: Callable[[], float]) -> None:
        self._make = make
        self._seconds = seconds
        self._monotonic = monotonic
        self._guarded = threading.Lock()
        self._kept: tuple[float, T] | None = None

    def get(self) -> T:
        """The value; an exception of `make` passes through and is not kept."""
        with self._guarded:
            if self._kept is None or self._monotonic() - self._kept[0] >= self._seconds:
                made = self._make()
                self._kept = (self._monotonic(), made)
            return self._kept[1]
