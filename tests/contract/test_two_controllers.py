"""Two real controllers of two homes over one PostgreSQL, and an Envoy that listens to the one that leads.

The database itself notes who wrote what under which token, so that nobody has to be believed: each connection
says whose it is (`application_name`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

import httpx
import psutil
import psycopg
import pytest

from serving.control.controller.fenced import FencedLedger
from serving.control.controller.leadership import LEASE_SECONDS, NAME
from serving.control.rollout.advance import Rollouts
from serving.control.rollout.journal import KeptJournal, StaleState
from serving.control.rollout.plan import Phase, RolloutState, RolloutStep, Shift
from serving.credentials import CONTROLLER_TOKEN
from serving.gateway.delivery.ads.source import LISTEN, SERVERS, TOKEN
from serving.gateway.router.base import StaleRoute
from serving.gateway.router.kept import LedgerRouter
from serving.gateway.router.memory import MemoryRouter
from serving.home import DELIVERY, Home, Ports
from serving.ledger import rows
from serving.ledger.base import URL_VARIABLE, Unreachable
from serving.ledger.opening import open_ledger
from serving.ledger.schema import TABLES
from serving.ledger.sql import SqlLedger
from serving.metrics.envoy import EnvoyAdmin
from serving.types import ALL_STABLE, RouteSettings, Slot, TrafficSplit
from tests import postgresql
from tests.unit.serving.gateway_process import Gateway, envoy_running, free_ports
from tests.unit.serving.upstream import Pods, deployment, pods_running
from tests.unit.serving.world import PLAN

pytestmark = pytest.mark.at_length

SERVICE = "fraud"
PATIENT_SECONDS = 240
HALF = replace(PLAN, steps=(RolloutStep(TrafficSplit(50, 50), 3600), RolloutStep(TrafficSplit(0, 100), 3600)))

# Who wrote, and under which lease: asked inside the same transaction, so whoever has the lease has to wait.
_NOTING = """
CREATE TABLE written (number BIGSERIAL, what TEXT, who TEXT, holder TEXT, token BIGINT);
CREATE FUNCTION note_who() RETURNS trigger AS $$
BEGIN
  INSERT INTO written (what, who, holder, token)
  SELECT TG_TABLE_NAME, current_setting('application_name'), max(holder), coalesce(max(token), 0)
  FROM leases WHERE name = 'controller';
  RETURN NULL;
END $$ LANGUAGE plpgsql;
"""


class Controller:
    """One with a home of its own, started as people start it."""

    def __init__(self, name: str, root: Path, url: str) -> None:
        controller, ads, stats, gateway = free_ports(4)
        self.name = name
        self.home = Home(root, Ports(controller=controller, ads=ads, envoy_stats=stats, gateway=gateway))
        self.home.logs.mkdir(parents=True)
        self._url = f"{url}&application_name={name}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Unless it runs."""
        if self._process:
            return
        ports = {f"SLIPWAY_PORT_{k.upper()}": str(v) for k, v in asdict(self.home.ports).items()}
        mine = {**ports, "SLIPWAY_HOME": str(self.home.root), URL_VARIABLE: self._url, LISTEN: self.ads}
        with (self.home.logs / "controller.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.cli", "controller"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, DELIVERY: "ads", **mine},
            )

    @property
    def ads(self) -> str:
        return f"127.0.0.1:{self.home.ports.ads}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.home.ports.controller}"

    @property
    def log(self) -> str:
        return (self.home.logs / "controller.log").read_text()

    def answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        return False

    def leads(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/ready", timeout=2).status_code == 200
        return False

    @contextmanager
    def stopped(self) -> Iterator[None]:
        assert self._process
        process = psutil.Process(self._process.pid)
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def kill(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None


class Scene:
    """Both controllers, the one at 50 % that the first of them judges, and callers of the Envoy."""

    def __init__(self, root: Path, database: str, pods: Pods, running: ExitStack) -> None:
        self.first, self.second = (Controller(name, root / name, database) for name in ("first", "second"))
        for name, value in {
            TOKEN: "for-envoys",
            CONTROLLER_TOKEN: "for-callers",
            SERVERS: f"{self.first.ads},{self.second.ads}",
        }.items():
            running.enter_context(pytest.MonkeyPatch.context()).setenv(name, value)
        self.pods = pods
        self.stable = self.candidate = pods.start("stable")
        self.version, self.release = 1, ""
        self.database = database
        self.ledger: SqlLedger = running.enter_context(closing(open_ledger(database)))
        serving = deployment(SERVICE, 1, self.stable)
        LedgerRouter(self.ledger, MemoryRouter()).write(
            SERVICE, ALL_STABLE, stable=serving, candidate=None, at=0
        )
        self._note_who_writes()
        for each in (self.first, self.second):
            running.callback(each.kill)
        self.start_both()
        gateway, stats = free_ports(2)
        home = Home(root / "envoy", Ports(gateway=gateway, envoy_stats=stats), "ads")
        self.envoy: Gateway = running.enter_context(envoy_running(home))
        self.admin: EnvoyAdmin = running.enter_context(closing(EnvoyAdmin(home.envoy_stats_url)))
        self.wait(lambda: self.weight() is not None)
        self.statuses: list[int] = []
        ending = Event()
        load = Thread(target=self._ask, args=(ending,), daemon=True)
        load.start()
        running.callback(load.join, 30)
        running.callback(ending.set)

    @property
    def state(self) -> RolloutState:
        return KeptJournal(self.ledger).load(self.release)

    def begin(self) -> None:
        """A release at 50 %, in the name of whoever leads: as if it had taken its first step."""
        lease = self.ledger.lease(NAME)
        fenced = FencedLedger(self.ledger, lambda: lease.fence if lease else None, monotonic=time.monotonic)
        self.version += 1
        self.candidate = self.pods.start(f"candidate {self.version}")
        self.release = f"{SERVICE}-v{self.version}-20261121T12{self.version:02}00Z"
        candidate = deployment(SERVICE, self.version, self.candidate, slot=Slot.GREEN)

        def took_its_first_step() -> bool:
            # Whoever leads writes the route as well; who was slower looks again, as each of them does.
            router = LedgerRouter(fenced, MemoryRouter())
            rollouts = Rollouts(KeptJournal(fenced), router, now=lambda: datetime.now(UTC))
            try:
                state = rollouts.start(self.release, HALF, candidate, RouteSettings(timeout_ms=2000))
                rollouts.carry_out(Shift(0), state, router.read(SERVICE))
            except (StaleRoute, StaleState):
                return False
            return True

        self.wait(took_its_first_step)
        self.wait(lambda: self.weight() == 50)
        # Whoever leads has seen it, and callers have.
        self.wait(
            lambda: self.candidate.answered and self.ledger.find(rows.ObservationRow, release_id=self.release)
        )

    def weight(self) -> float | None:
        """The candidate's, in percent, as the Envoy has it; None while it has no such service."""
        found = self.admin.counters().get(SERVICE, {})
        weights = {endpoint: each.weight for endpoint, each in found.items()}
        every = sum(weights.values())
        return 100 * (1 - weights.get(self.stable.endpoint, 0) / every) if every else None

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = datetime.now(UTC).timestamp() + PATIENT_SECONDS
        while datetime.now(UTC).timestamp() < deadline:
            with suppress(Unreachable, httpx.TransportError):
                if condition():
                    return
            Event().wait(0.1)
        raise AssertionError(
            f"not within {PATIENT_SECONDS} s:\n{self.first.log[-3000:]}\n----\n{self.second.log[-3000:]}"
        )

    def start_both(self) -> None:
        """The first one leads."""
        for each in (self.first, self.second):
            each.start()
            self.wait(each.answers)
        self.wait(self.first.leads)

    def wait_until_rolled_back(self) -> None:
        """By its own fault, without a caller noticing, and the record says all of it."""
        self.wait(lambda: self.state.phase is Phase.ROLLED_BACK)
        self.wait(lambda: self.weight() == 0)
        assert "candidate failed" in self.state.reason
        self.require_whole_record()
        assert set(self.statuses) == {200}

    def written(self) -> list[tuple[str, str, str, int]]:
        """(table, whose connection, holder of the lease, its token) of every write since the beginning."""
        asked = "SELECT what, who, holder, token FROM written ORDER BY number"
        with psycopg.connect(self.database) as connection:
            return connection.execute(asked).fetchall()

    def require_one_writer(self) -> list[str]:
        """Who wrote under each token, in turn: one, whose lease it was, and nobody once there is a
        later one."""
        writers: dict[int, set[str]] = {}
        latest = 0
        for what, who, holder, token in self.written():
            # What the test begins is written in the name of who leads.
            assert not who or f":{self._home_of(who)}:" in holder, (what, who, holder)
            assert token >= latest, (what, who, token, latest)
            latest = max(latest, token)
            if who:
                writers.setdefault(token, set()).add(who)
        assert all(len(each) == 1 for each in writers.values()), writers
        return [each.pop() for each in writers.values()]

    def require_whole_record(self) -> None:
        """Every revision once, each event once, and a trail that is what was written."""
        (route,) = self.ledger.find(rows.RouteRow, service=SERVICE)
        changes = self.ledger.find(rows.RouteChangeRow, service=SERVICE)
        # What a rollout leaves behind is cleared away meanwhile.
        assert [each.revision for each in changes] == list(range(1, len(changes) + 1))
        assert len(changes) >= route.generation
        kinds = [each.kind for each in self.ledger.find(rows.EventRow, release_id=self.release)]
        assert len(kinds) == len(set(kinds)), kinds
        self.ledger.verify_audit()

    def _home_of(self, who: str) -> Path:
        return {each.name: each.home.root for each in (self.first, self.second)}[who]

    def _note_who_writes(self) -> None:
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(_NOTING)
            for table in TABLES.values():
                connection.execute(
                    f"CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON {table.name} "
                    "FOR EACH STATEMENT EXECUTE FUNCTION note_who()"
                )

    def _ask(self, ending: Event) -> None:
        with httpx.Client(base_url=self.envoy.home.gateway_url, timeout=30) as client:
            while not ending.wait(0.01):
                self.statuses.append(client.post(f"/v2/models/{SERVICE}/infer", content=b"{}").status_code)


@pytest.fixture(scope="module")
def server() -> Iterator[postgresql.Server]:
    with postgresql.server() as started:
        yield started


@pytest.fixture(scope="module")
def running_scene(server: postgresql.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with ExitStack() as running:
        pods = running.enter_context(pods_running())
        yield Scene(tmp_path_factory.mktemp("two"), server.database(), pods, running)


@pytest.fixture
def scene(running_scene: Scene) -> Scene:
    """Both are there, the first one leads, and there is a release at 50 %."""
    running_scene.start_both()
    running_scene.begin()
    return running_scene


def test_a_leader_that_stood_still_for_longer_than_its_lease_writes_nothing_more(scene: Scene) -> None:
    with scene.first.stopped():
        scene.candidate.fault = "error"
        scene.wait_until_rolled_back()
        # The Envoy has left the one that says nothing, and hears from the other one what it decided.
        before = len(scene.written())
    # It believed to lead, with a canary at 50 % that fails, when it went on.
    scene.wait(lambda: scene.first.answers() and not scene.first.leads())
    assert "is over: " in scene.first.log
    scene.begin()
    assert {who for _, who, *_ in scene.written()[before:]} == {"second", ""}
    # And it goes on from what the other one did.
    scene.second.kill()
    scene.wait(scene.first.leads)
    scene.candidate.fault = "error"
    scene.wait_until_rolled_back()
    assert scene.require_one_writer()[-3:] == ["first", "second", "first"]


def test_a_candidate_that_fails_while_the_database_is_away_is_taken_out_and_that_is_written_down(
    scene: Scene, server: postgresql.Server
) -> None:
    with server.stopped():
        scene.candidate.fault = "error"
        scene.wait(lambda: scene.weight() == 0)
        # For longer than the lease lasts: nobody can take over.
        Event().wait(LEASE_SECONDS + 2)
        assert scene.weight() == 0
    scene.wait_until_rolled_back()
    scene.wait(scene.first.leads)
    assert scene.require_one_writer()[-1] == "first"


def test_what_a_leader_did_that_died_while_the_database_was_away_stops_no_later_release(
    scene: Scene, server: postgresql.Server
) -> None:
    with server.stopped():
        scene.candidate.fault = "error"
        scene.wait(lambda: scene.weight() == 0)
        scene.first.kill()
    # The other one knows nothing of it, and comes to the same.
    scene.wait(scene.second.leads)
    scene.wait_until_rolled_back()
    scene.begin()
    # What its gateway was told last, under a revision that has been given to something else since.
    scene.first.start()
    scene.wait(scene.first.answers)
    scene.second.kill()
    scene.wait(scene.first.leads)
    scene.wait(lambda: "slipway is there" in scene.first.log)
    Event().wait(2)
    assert scene.weight() == 50
    assert scene.state.phase is Phase.PROGRESSING
    scene.candidate.fault = "error"
    scene.wait_until_rolled_back()
    assert scene.require_one_writer()[-3:] == ["first", "second", "first"]
