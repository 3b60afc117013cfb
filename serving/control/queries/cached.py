"""Values that are good for a moment, however many people ask, and made before anybody has to wait."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)

# What nobody asked for so long is not made anew any more.
WATCHED_SECONDS = 10.0
# Older than this a kept value is shown to nobody: the keeper is behind, or was not at work.
PATIENCE_SECONDS = 3.0
TICK_SECONDS = 0.05


class Cached(Generic[T]):
    """What `make` returned, for `seconds`. Only one thread makes it; the others wait for that.

    With a `keeper`, nobody waits while people look at it: it is made anew beside them, and they get what was
    made last. The keeper itself always gets what is good, so what is made of other values is not older still.
    """

    def __init__(
        self,
        make: Callable[[], T],
        *,
        seconds: float,
        monotonic: Callable[[], float],
        refresher: Refresher | None = None,
    ) -> None:
        self._make = make
        self._seconds = seconds
        self._monotonic = monotonic
        self._refresher = refresher
        self._guarded = threading.Lock()
        self._kept: tuple[float, T] | None = None
        self._asked = float("-inf")

    def get(self) -> T:
        """The value; an exception of `make` passes through and is not kept."""
        if self._refresher is None or self._refresher.is_at_work():
            return self.renewed()
        self._asked = self._monotonic()
        self._refresher.keep(self)
        kept = self._kept
        if kept is not None and self._asked - kept[0] < max(self._seconds, PATIENCE_SECONDS):
            return kept[1]
        return self.renewed()

    def renewed(self) -> T:
        """The value, made now unless it is still good."""
        with self._guarded:
            if self._kept is None or self._monotonic() - self._kept[0] >= self._seconds:
                made = self._make()
                self._kept = (self._monotonic(), made)
            return self._kept[1]

    def anew(self) -> T:
        """The value, made now however young the kept one is: for who must find what they just did."""
        with self._guarded:
            made = self._make()
            self._kept = (self._monotonic(), made)
            return made

    def is_watched(self) -> bool:
        """Whether somebody asked for it lately."""
        return self._monotonic() - self._asked < WATCHED_SECONDS


class Refresher:
    """One thread that makes values anew as they age, as long as somebody asks for them."""

    def __init__(self) -> None:
        self._guarded = threading.Lock()
        self._briefs: set[Cached[Any]] = set()
        self._thread: threading.Thread | None = None

    def is_running(self) -> bool:
        """Whether anything is made anew."""
        return self._thread is not None

    def is_at_work(self) -> bool:
        """Whether it is the keeper that asks."""
        return threading.current_thread() is self._thread

    def keep(self, brief: Cached[Any]) -> None:
        """Make it anew from now on. May be repeated."""
        if brief in self._briefs:
            return
        with self._guarded:
            self._briefs = {*self._briefs, brief}
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="slipway-keeper", daemon=True)
                self._thread.start()

    def breathe(self) -> None:
        """Between two pieces of work: whoever answers a request comes first.

        To let go of the interpreter for no time at all would be to take it again at once.
        """
        if self.is_at_work():
            time.sleep(0.0005)

    def end(self) -> None:
        """Let everything grow old, and wait until the thread has noticed."""
        thread = self._thread
        with self._guarded:
            self._briefs = set()
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while self._watched():
            for brief in self._briefs:
                try:
                    brief.renewed()
                except Exception:
                    # Whoever asks next makes it themselves, and is told.
                    log.warning("what the pages show could not be made anew", exc_info=True)
                    time.sleep(1)
            time.sleep(TICK_SECONDS)

    def _watched(self) -> bool:
        with self._guarded:
            self._briefs = {brief for brief in self._briefs if brief.is_watched()}
            if not self._briefs:
                self._thread = None
            return bool(self._briefs)
