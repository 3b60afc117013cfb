"""What many ask for is made before anybody has to wait, and only while somebody asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from serving.control.queries.cached import Cached, Refresher


@pytest.fixture
def refresher() -> Iterator[Refresher]:
    made = Refresher()
    yield made
    made.end()


class Clock:
    """Uptime that goes on only when told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Slow:
    """Makes 1, 2, 3 ...; from the second on it takes until it is told to go on."""

    def __init__(self) -> None:
        self.made = 0
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> int:
        if self.made:
            self.began.set()
            assert self.go_on.wait(10)
        self.made += 1
        return self.made


def until(holds: object, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_nobody_waits_while_it_is_made_anew(refresher: Refresher) -> None:
    clock, slow = Clock(), Slow()
    brief = Cached(slow, seconds=0.5, monotonic=clock, refresher=refresher)
    assert brief.get() == 1
    clock.seconds = 1.0
    assert slow.began.wait(5), "it is made anew although nobody asks just now"
    assert brief.get() == 1
    slow.go_on.set()
    until(lambda: brief.get() == 2)


def test_what_is_too_old_is_shown_to_nobody(refresher: Refresher) -> None:
    clock, slow = Clock(), Slow()
    slow.go_on.set()
    brief = Cached(slow, seconds=0.5, monotonic=clock, refresher=refresher)
    brief.get()
    refresher.end()
    clock.seconds = 5.0
    assert brief.get() == 2


def test_what_nobody_asks_for_is_not_made_anew(refresher: Refresher) -> None:
    clock, slow = Clock(), Slow()
    slow.go_on.set()
    brief = Cached(slow, seconds=0.5, monotonic=clock, refresher=refresher)
    brief.get()
    clock.seconds = 60.0
    until(lambda: not refresher.is_running())
    assert slow.made == 1
    assert brief.get() == 2
    assert refresher.is_running()


def test_a_failure_beside_is_told_to_who_asks_next(refresher: Refresher) -> None:
    clock, failing = Clock(), threading.Event()

    def make() -> int:
        if failing.is_set():
            raise OSError("the disk is gone")
        return 1

    brief = Cached(make, seconds=0.5, monotonic=clock, refresher=refresher)
    assert brief.get() == 1
    failing.set()
    clock.seconds = 2.0
    assert brief.get() == 1
    clock.seconds = 9.0
    with pytest.raises(OSError, match="the disk is gone"):
        brief.get()


def test_what_the_keeper_makes_is_not_made_of_what_is_old(refresher: Refresher) -> None:
    clock = Clock()
    source = iter(range(1, 100))
    inner = Cached(lambda: next(source), seconds=0.5, monotonic=clock, refresher=refresher)
    outer = Cached(inner.get, seconds=0.5, monotonic=clock, refresher=refresher)
    assert outer.get() == 1
    clock.seconds = 1.0
    until(lambda: outer.get() == 2)
