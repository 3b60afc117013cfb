"""The ledger is gone for a minute while a candidate fails; and its writes are cut off at any point."""

from __future__ import annotations

import logging
from itertools import count
from typing import Any

import pytest

from serving.control.controller.fenced import AGAIN_SECONDS, FencedLedger
from serving.control.controller.leadership import Leadership
from serving.control.rollout.journal import Journal, KeptJournal
from serving.control.rollout.plan import Phase
from serving.control.traffic import NotLeading
from serving.gateway.router.kept import LedgerRouter
from serving.ledger.base import Unreachable
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import NoteRow, ObservationRow, Row
from serving.types import ALL_STABLE
from tests.unit.serving.control.rollout.test_crashes_and_races import SHORT, Killed
from tests.unit.serving.world import RELEASE, SERVICE, World


class Cut(MemoryLedger):
    """A ledger that can be away, counts who asks it then, and ends its process at a write."""

    def __init__(self) -> None:
        super().__init__()
        self.is_gone = False
        self.asked = 0
        self.writes: int | None = None

    def save(self, *changes: Any, **more: Any) -> tuple[Row, ...]:
        self._ask()
        saved = super().save(*changes, **more)
        self._ask_after()
        return saved

    def observe(self, *observations: ObservationRow, **more: Any) -> None:
        if not self.is_gone and self.writes is None:
            super().observe(*observations, **more)
            return
        self._ask()
        super().save(*observations)
        self._ask_after()

    def _ask(self) -> None:
        if self.is_gone:
            self.asked += 1
            raise Unreachable("the ledger is gone", remedy="start it")
        self._count()

    def _ask_after(self) -> None:
        self._count()

    def _count(self) -> None:
        if self.writes is not None:
            self.writes -= 1
            if self.writes < 0:
                raise Killed("at a write of the ledger")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


def test_without_the_ledger_a_failing_candidate_loses_its_traffic_and_the_record_is_whole_afterwards() -> (
    None
):
    ledger = Cut()
    world = World(ledger=ledger).until(Phase.PROGRESSING, step=1)
    ledger.is_gone = True
    world.candidate_errors(1.0).tick(3)
    assert (world.told.read(SERVICE).split, world.phase) == (ALL_STABLE, Phase.PROGRESSING)
    world.tick(240)  # a minute
    assert (world.told.read(SERVICE).split, world.phase) == (ALL_STABLE, Phase.PROGRESSING)
    ledger.is_gone = False
    world.tick(2)
    state = Journal(ledger).load(RELEASE)
    assert state.phase is Phase.ROLLED_BACK
    assert "candidate failed" in state.reason
    assert LedgerRouter(ledger, world.told).read(SERVICE).split == ALL_STABLE
    kinds = [event.kind for event in Journal(ledger).timeline(RELEASE)]
    assert kinds == ["started", "shift", "shift", "rolled back"]
    last = list(Journal(ledger).records(RELEASE))[-1]
    assert last.candidate.errors > 0, "what was seen meanwhile was written down"


def test_without_the_ledger_a_healthy_rollout_takes_no_step_and_goes_on_afterwards() -> None:
    ledger = Cut()
    world = World(ledger=ledger).until(Phase.PROGRESSING, step=0)
    split = world.split
    ledger.is_gone = True
    world.tick(240)
    assert (world.split, world.state.step) == (split, 0)
    ledger.is_gone = False
    world.until(Phase.DONE)


@pytest.mark.parametrize("fails", [False, True])
def test_a_process_that_is_killed_at_any_write_of_the_ledger_leaves_what_the_next_one_ends_well(
    fails: bool,
) -> None:
    for at in count():
        ledger = Cut()
        world = World(ledger=ledger, plan=SHORT)
        if fails:
            world.until(Phase.PROGRESSING, step=0).candidate_errors(1.0)
        ledger.writes = at
        was_killed = False
        try:
            world.tick(8 if fails else 60)
        except Killed:
            was_killed = True
        ledger.writes = None
        world.journal = KeptJournal(ledger)
        world.router = LedgerRouter(ledger, world.told, now=world.now)
        world.router.reconcile()
        world.restart_controller().until(Phase.ROLLED_BACK if fails else Phase.DONE)
        assert world.split == world.told.read(SERVICE).split == ALL_STABLE
        if not was_killed:
            assert at > 4
            return


def test_a_rollback_that_is_owed_is_left_to_who_has_the_lease_by_now() -> None:
    ledger = Cut()
    world = World(ledger=ledger).until(Phase.PROGRESSING, step=1)
    ledger.is_gone = True
    world.candidate_errors(1.0).tick(3)
    assert list(world.controller.pending) == [RELEASE]
    world.controller.stand_by()
    assert world.controller.pending == {}, "it would be carried out over what the other one decided"


def test_who_asks_a_ledger_that_is_gone_is_told_at_once_and_one_a_second_tries_again() -> None:
    ledger, now = Cut(), [100.0]
    fenced = FencedLedger(ledger, lambda: None, monotonic=lambda: now[0])
    note = NoteRow(id="fraud/x", model="fraud", kind="x", at=World().wall)
    ledger.is_gone = True
    for _ in range(5):
        with pytest.raises(Unreachable):
            fenced.save(note)
    assert ledger.asked == 1
    assert fenced.problem == "the ledger is gone"
    now[0] += AGAIN_SECONDS
    for _ in range(5):
        with pytest.raises(Unreachable):
            fenced.save(note)
    assert ledger.asked == 2
    ledger.is_gone = False
    now[0] += AGAIN_SECONDS
    fenced.save(note)
    assert fenced.problem == ""


def test_every_write_of_the_controllers_stores_is_refused_without_the_lease() -> None:
    world = World()
    standby = Leadership(world.ledger, "standby", monotonic=lambda: 0.0)
    rows = FencedLedger(world.ledger, standby.fence, monotonic=lambda: 0.0)
    journal = KeptJournal(rows)
    router = LedgerRouter(rows, world.told, require_last=standby.require_last)
    with pytest.raises(NotLeading):
        journal.save(world.state, journal.timeline(RELEASE)[0])
    route = router.read(SERVICE)
    with pytest.raises(NotLeading):
        router.write(SERVICE, ALL_STABLE, stable=route.stable, candidate=route.candidate, at=route.revision)
    assert world.told.read(SERVICE) == route
