"""`python -m serving.controller`: runs until it is told to end."""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from uuid import uuid4

from model_store.errors import Permanent, Retryable, SlipwayError
from model_store.unwritable import Unwritable
from serving import composition
from serving.control.audit import take_late
from serving.control.controller import api
from serving.control.controller.acts import Acts
from serving.control.controller.fenced import PATIENCE_SECONDS, FencedLedger
from serving.control.controller.holds import Holds
from serving.control.controller.leadership import NAME, Leadership, named
from serving.control.controller.pods import PodWatch
from serving.control.controller.server import ControllerServer
from serving.control.controller.tick import Controller
from serving.control.controller.timing import Timing
from serving.control.outbox import REMEMBER
from serving.control.rollout.journal import KeptJournal
from serving.control.shadow import Shadow
from serving.credentials import controller_token
from serving.gateway import access_log
from serving.gateway.bootstrap import publish_filters
from serving.gateway.delivery.base import Server as GatewayServer
from serving.gateway.router.base import TrafficRouter
from serving.gateway.router.kept import LedgerRouter
from serving.home import Home
from serving.ledger import identity
from serving.ledger.base import Leases, Ledger
from serving.ledger.home_files import MOVED, MOVED_FOR_GOOD
from serving.ledger.importing import import_home
from serving.monitoring.config import targets

# Where it listens, if that is not this machine alone.
LISTEN = "SLIPWAY_CONTROLLER_LISTEN"
# Where others ask it, if that does not follow from where it listens: who stands by names it.
ADDRESS = "SLIPWAY_CONTROLLER_ADDRESS"
TICK_SECONDS = 0.225
SILENT_SECONDS = 2.0
RECONCILE_SECONDS = 10.0

log = logging.getLogger("slipway.controller")


def main(home: Home) -> None:
    """Tick more than four times a second. Raises `Permanent` if the installation has one already.

    Of several controllers of one ledger the one that has the lease writes; the others answer what they are
    asked, tell their machine's gateway what was decided, and take over.
    """
    with _only_controller(home):
        identity.require_there(home.root, os.environ)
        with closing(composition.ledger_of(home, patience_seconds=PATIENCE_SECONDS)) as ledger:
            identity.require_same(home.root, os.environ, ledger)
            take_over(home, ledger)
            note_ledger(home, ledger)
            _watch(home, ledger)


def note_ledger(home: Home, ledger: Ledger) -> None:
    """Which one this home has. A full disk keeps nobody from returning traffic: the next start notes it."""
    try:
        identity.remember(home.root, os.environ, ledger)
    except (OSError, Unwritable) as problem:
        log.warning("which ledger this home has is noted with the next start: %s", problem)


def take_over(home: Home, ledger: Ledger) -> None:
    """What this home's files say that are no files any more, once.

    Files of routes are what the gateway is told since: only before the first start do they say what was
    decided.
    """
    kinds = MOVED if identity.known_to(home.root) is None else MOVED_FOR_GOOD
    imported = import_home(home.root, ledger, at=_utc(), kinds=kinds, only_new=True)
    if imported.files:
        log.info("took over %d files into the ledger: %s", imported.files, dict(imported.rows))
    for name, why in imported.unreadable:
        log.error("%s is not in the ledger: %s", name, why)


def _watch(home: Home, ledger: Ledger) -> None:
    leases = composition.leases_of(home, ledger)
    leadership = Leadership(
        leases,
        _this_process(home, leases),
        monotonic=time.monotonic,
        respect=(lambda lease: None) if leases is ledger else ledger.respect,
        begin=lambda: begin(),
    )
    rows = FencedLedger(ledger, leadership.fence, monotonic=time.monotonic)
    services, acts = composition.wire_controller(home, rows, require_last=leadership.require_last)
    journal, router = services.journal, services.router
    assert isinstance(journal, KeptJournal)
    assert isinstance(router, LedgerRouter)
    pods = PodWatch(services.platform, router)
    controller = Controller(
        journal,
        router,
        composition.metrics_of(home),
        now=_utc,
        monotonic=time.monotonic,
        shadow=Shadow(home.requests),
        # Asked last in a tick, and not for long: it must never keep the next one waiting.
        timing=Timing(composition.latencies_of(home, timeout_seconds=0.2), monotonic=time.monotonic),
        pods=pods,
        holds=Holds(services, now=_utc, monotonic=time.monotonic),
        writes_beside=True,
    )

    def begin() -> None:
        """What another controller wrote, before this one writes."""
        journal.refresh()
        router.refresh()
        controller.forget()

    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    # Who stands by tells Envoys nothing: whoever judges has to see and to be acknowledged by all of them.
    envoys = composition.gateway_server_of(home, serves=lambda: leadership.may_return)
    app = api.build(
        controller,
        acts,
        rows,
        router,
        token=controller_token(home),
        find_problem=lambda: _problem(controller, envoys),
        is_alive=lambda: _is_alive(controller),
        targets=lambda: targets(router),
        require_last=leadership.require_last,
    )
    host, port = _listen(home)
    leadership.look()
    server = ControllerServer(app, port, host=host).start()
    # What is told is what the routes say now.
    _reconcile(controller, router)
    with controller.apart("API keys"):
        # An Envoy that is told over gRPC listens once it knows its clients and who may preview, too.
        publish_filters(home)
    envoys.start()
    beside = {
        "pods": lambda: pods.run(ending),
        "lease": lambda: leadership.run(ending),
        "books": lambda: _write_beside(controller, journal, router, ending),
        "settlement": lambda: acts.settlement.run(ending),
    }
    for name, work in beside.items():
        threading.Thread(target=work, daemon=True, name=name).start()
    log.info("watching the releases of %s", home.root)
    _run(home, controller, router, leadership, acts, rows, ending)
    with controller.apart("what was seen last"):
        journal.flush()
        router.settle()
    leadership.resign()
    envoys.stop()
    server.shutdown()


def _this_process(home: Home, leases: Leases) -> str:
    """A name that no other process has. What a controller of this home had that is gone is given back: that
    it is gone is known by the home's lock."""
    here = f"{platform.node()}:{home.root}:"
    with suppress(SlipwayError):
        before = leases.lease(NAME)
        if before is not None and before.holder.startswith(here):
            leases.release(before)
    return named(f"{here}{os.getpid()}:{uuid4().hex[:8]}", _asked_at(home))


def _write_beside(
    controller: Controller, journal: KeptJournal, router: LedgerRouter, ending: threading.Event
) -> None:
    """What looks do not wait for: observations, ways back that traffic has taken already, and of writes that
    nobody answered whether they were written."""
    while not ending.wait(TICK_SECONDS):
        for write in (journal.flush, router.settle, journal.refresh, router.refresh):
            try:
                write()
            except Retryable as problem:
                log.debug("written down later: %s", problem.problem)
            except Exception:
                controller.done.errors += 1
                log.exception("what was seen could not be written down")


def _run(
    home: Home,
    controller: Controller,
    router: LedgerRouter,
    leadership: Leadership,
    acts: Acts,
    ledger: FencedLedger,
    ending: threading.Event,
) -> None:
    due = reconcile_due = time.monotonic()
    was_leading = False
    while not ending.wait(max(0.0, due - time.monotonic())):
        # After a tick that took too long the next comes a full interval later, not at once.
        due = max(due + TICK_SECONDS, time.monotonic())
        if leadership.may_return:
            with controller.apart("tick"):
                controller.tick()
        else:
            controller.stand_by()
        acts.settlement.latest = controller.latest
        with controller.apart("first versions"):
            acts.starts.resume(state for state, _ in controller.active)
        if leadership.is_leading and not was_leading:
            # What a controller before began goes on at once.
            reconcile_due = time.monotonic()
        was_leading = leadership.is_leading
        if time.monotonic() >= reconcile_due:
            reconcile_due = time.monotonic() + RECONCILE_SECONDS
            _reconcile(controller, router)
            if leadership.is_leading:
                with controller.apart("rollbacks that go on"):
                    acts.jobs.resume()
                with controller.apart("late entries"):
                    take_late(ledger, home.late)
                with controller.apart("what is forgotten"):
                    ledger.prune(_utc() - REMEMBER, only=("deliveries", "letters"))
            with controller.apart("access log"):
                access_log.turn_over(home)


def _reconcile(controller: Controller, router: TrafficRouter) -> None:
    """Counts the routes that cannot be read, of which nothing is derived anew."""
    with controller.apart("reconcile"):
        router.reconcile()
    with controller.apart("routes"):
        for service in router.services():
            with controller.apart(service):
                router.read(service)


def _problem(controller: Controller, envoys: GatewayServer) -> str:
    """What keeps the controller from its work; "" if nothing does."""
    if envoys.problem:
        return envoys.problem
    if pending := list(controller.pending):
        return f"cannot finish the rollback of {', '.join(pending)}"
    return "" if _is_alive(controller) else "no tick lately"


def _is_alive(controller: Controller) -> bool:
    return controller.done.ticks > 0 and time.monotonic() - controller.done.last_tick_at < SILENT_SECONDS


def _listen(home: Home, environ: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Where it is asked: on this machine, unless the variable says otherwise."""
    given = environ.get(LISTEN) or f"127.0.0.1:{home.ports.controller}"
    host, _, port = given.rpartition(":")
    if not host or not port.isdecimal():
        raise Permanent(f"{LISTEN}: {given!r} is no address", remedy="give host:port, as 0.0.0.0:8484")
    return host.strip("[]"), int(port)


def _asked_at(home: Home, environ: Mapping[str, str] = os.environ) -> str:
    """The URL by which others ask it. A name for all addresses is none: then the machine's."""
    if given := environ.get(ADDRESS, "").strip().rstrip("/"):
        return given if "://" in given else f"http://{given}"
    host, port = _listen(home, environ)
    host = platform.node() if host in ("0.0.0.0", "::") else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _only_controller(home: Home) -> Iterator[None]:
    """Two controllers would both write observations; the second one ends."""
    home.root.mkdir(parents=True, exist_ok=True)
    with (home.root / "controller.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Permanent(
                f"another controller watches {home.root}", remedy="leave it running, or end it first"
            ) from None
        yield


def _utc() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    # A line for each time that a pod is asked how it is.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        main(Home.locate())
    except SlipwayError as problem:
        sys.exit(f"error: {problem}")
