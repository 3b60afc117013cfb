"""`python -m serving.guard`: runs until it is told to end."""

from __future__ import annotations

import fcntl
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from model_store.errors import Permanent, SlipwayError
from serving import composition
from serving.control.guard.exposition import serve
from serving.control.guard.guard import Guard
from serving.control.guard.pods import PodWatch
from serving.control.guard.timing import Timing
from serving.control.rollout.journal import Journal
from serving.control.shadow import Shadow
from serving.gateway import access_log
from serving.gateway.router.base import TrafficRouter
from serving.home import Home
from serving.monitoring.targets import targets

TICK_SECONDS = 0.225
SILENT_SECONDS = 2.0
RECONCILE_SECONDS = 10.0

log = logging.getLogger("slipway.guard")


def main(home: Home) -> None:
    """Tick more than four times a second. Raises `Permanent` if another guard of this installation runs."""
    router = composition.router_of(home)
    pods = PodWatch(composition.platform_of(home), composition.router_of(home))
    guard = Guard(
        Journal(home.journal),
        router,
        composition.metrics_of(home),
        now=_utc,
        monotonic=time.monotonic,
        shadow=Shadow(home.requests),
        # Asked last in a tick, and not for long: it must never keep the next one waiting.
        timing=Timing(composition.latencies_of(home, timeout_seconds=0.2), monotonic=time.monotonic),
        pods=pods,
    )
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    with _only_guard(home):
        server = serve(
            guard, home.ports.guard, find_problem=lambda: _problem(guard), targets=lambda: targets(router)
        )
        threading.Thread(target=pods.run, args=(ending,), daemon=True, name="pods").start()
        log.info("guarding the releases of %s", home.root)
        _run(home, guard, router, ending)
        server.shutdown()


def _run(home: Home, guard: Guard, router: TrafficRouter, ending: threading.Event) -> None:
    due = reconcile_due = time.monotonic()
    while not ending.wait(max(0.0, due - time.monotonic())):
        # After a tick that took too long the next comes a full interval later, not at once.
        due = max(due + TICK_SECONDS, time.monotonic())
        with guard.apart("tick"):
            guard.tick()
        if time.monotonic() >= reconcile_due:
            reconcile_due = time.monotonic() + RECONCILE_SECONDS
            _reconcile(guard, router)
            with guard.apart("access log"):
                access_log.turn_over(home)


def _reconcile(guard: Guard, router: TrafficRouter) -> None:
    """Counts the routes that cannot be read, of which nothing is derived anew."""
    with guard.apart("reconcile"):
        router.reconcile()
    with guard.apart("routes"):
        for service in router.services():
            with guard.apart(service):
                router.read(service)


def _problem(guard: Guard) -> str:
    """What keeps the guard from guarding; "" if nothing does."""
    if pending := list(guard.pending):
        return f"cannot finish the rollback of {', '.join(pending)}"
    is_alive = guard.done.ticks > 0 and time.monotonic() - guard.done.last_tick_at < SILENT_SECONDS
    return "" if is_alive else "no tick lately"


@contextmanager
def _only_guard(home: Home) -> Iterator[None]:
    """Two guards would both write observations; the second one ends."""
    home.journal.mkdir(parents=True, exist_ok=True)
    with (home.root / "guard.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Permanent(
                f"another guard watches {home.root}", remedy="leave it running, or end it first"
            ) from None
        yield


def _utc() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    try:
        main(Home.locate())
    except SlipwayError as problem:
        sys.exit(f"error: {problem}")
