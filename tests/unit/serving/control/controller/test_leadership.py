"""Two controllers and one lease, in the ledger's table or in a store of its own."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from serving.control import wire_errors
from serving.control.controller.leadership import LEASE_SECONDS, Leadership, named
from serving.control.traffic import NotLeading
from serving.ledger.base import Fenced, Lease, Leases, Unreachable
from serving.ledger.memory import MemoryLedger
from serving.ledger.rows import NoteRow
from tests.contract.leases_contract import LeasesContract, PassTime

AT = datetime(2026, 11, 30, tzinfo=UTC)


class Machine:
    """One clock for the store, one for each controller: a stopped process sees its own go on."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.ledger = MemoryLedger(now=lambda: AT + timedelta(seconds=self.seconds))
        self.begun: list[str] = []

    def controller(self, name: str, leases: Leases | None = None) -> Leadership:
        return Leadership(
            leases or self.ledger,
            name,
            monotonic=lambda: self.seconds,
            respect=self.ledger.respect,
            begin=lambda: self.begun.append(name),
        )

    def write(self, by: Leadership, name: str) -> None:
        note = NoteRow(id=f"fraud/{name}", model="fraud", kind=name, at=AT)
        self.ledger.create(note, fence=by.fence())

    @property
    def written(self) -> list[str]:
        return sorted(note.kind for note in self.ledger.find(NoteRow))


@pytest.fixture
def machine() -> Machine:
    return Machine()


class TestLeasesOfTheLedger(LeasesContract):
    @pytest.fixture
    def leases(self, machine: Machine) -> Leases:
        return machine.ledger

    @pytest.fixture
    def pass_time(self, machine: Machine) -> PassTime:
        def pass_time(seconds: float) -> None:
            machine.seconds += seconds

        return pass_time


def test_one_of_two_writes_and_the_other_takes_over_when_it_is_gone(machine: Machine) -> None:
    first, second = machine.controller("a"), machine.controller("b")
    first.look()
    second.look()
    assert (first.is_leading, second.is_leading, second.holder) == (True, False, "a")
    with pytest.raises(NotLeading, match="a has the lease"):
        machine.write(second, "too-early")
    machine.seconds += LEASE_SECONDS
    second.look()
    machine.write(second, "taken-over")
    assert machine.written == ["taken-over"]
    assert machine.begun == ["a", "b"], "each reads what is so before it writes"


def test_who_was_stopped_for_longer_than_its_lease_writes_nothing_when_it_goes_on(machine: Machine) -> None:
    first, second = machine.controller("a"), machine.controller("b")
    first.look()
    fence = first.fence()
    machine.seconds += LEASE_SECONDS
    second.look()
    with pytest.raises(NotLeading):
        machine.write(first, "by-its-own-uptime")
    # Stopped between having asked for its fence and writing.
    with pytest.raises(Fenced, match="b has it under token 2"):
        machine.ledger.create(NoteRow(id="fraud/x", model="fraud", kind="x", at=AT), fence=fence)
    first.look()
    assert (first.is_leading, first.may_return, first.holder) == (False, False, "b")
    assert machine.written == []


def test_who_gives_it_back_keeps_nobody_waiting(machine: Machine) -> None:
    first, second = machine.controller("a"), machine.controller("b")
    first.look()
    first.resign()
    second.look()
    assert second.is_leading


def test_when_it_is_to_end_the_last_lines_are_written_before_the_lease_is_given_back(
    machine: Machine,
) -> None:
    first, ending = machine.controller("a"), threading.Event()
    first.look()
    ending.set()
    first.run(ending)
    machine.write(first, "seen last")
    assert machine.written == ["seen last"]


def test_while_the_store_is_gone_the_last_holder_may_only_return_traffic(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine.controller("a")
    first.look()

    def gone(*_: object, **__: object) -> None:
        raise Unreachable("the ledger is gone", remedy="start it")

    monkeypatch.setattr(machine.ledger, "renew", gone)
    machine.seconds += LEASE_SECONDS
    first.look()
    with pytest.raises(NotLeading, match="the ledger is gone"):
        first.fence()
    assert first.may_return
    monkeypatch.undo()
    first.look()
    machine.write(first, "later")
    assert machine.written == ["later"]


def test_a_lease_of_a_platform_is_shown_to_the_ledger_which_then_refuses_older_ones(machine: Machine) -> None:
    platform = MemoryLedger(now=lambda: AT + timedelta(seconds=machine.seconds))
    first, second = machine.controller("a", platform), machine.controller("b", platform)
    first.look()
    machine.write(first, "first")
    fence = first.fence()
    machine.seconds += LEASE_SECONDS
    second.look()
    with pytest.raises(Fenced):
        machine.ledger.create(NoteRow(id="fraud/x", model="fraud", kind="x", at=AT), fence=fence)
    machine.write(second, "second")
    assert machine.written == ["first", "second"]
    with pytest.raises(Fenced, match="b has it under token 2"):
        machine.ledger.respect(Lease("controller", "a", 1, AT, LEASE_SECONDS))


def test_after_the_store_was_away_its_last_holder_comes_before_who_stands_by(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It alone knows what traffic did meanwhile."""
    first, second = machine.controller("a"), machine.controller("b")
    first.look()
    second.look()

    def gone(*_: object, **__: object) -> None:
        raise Unreachable("the ledger is gone", remedy="start it")

    for name in ("renew", "acquire", "lease"):
        monkeypatch.setattr(machine.ledger, name, gone)
    machine.seconds += LEASE_SECONDS
    first.look()
    second.look()
    monkeypatch.undo()
    second.look()
    assert not second.may_return, "the lease is over, and who had it has not been heard yet"
    first.look()
    assert (first.is_leading, second.holder) == (True, "a")
    machine.seconds += LEASE_SECONDS
    second.look()
    assert second.is_leading


def test_who_stands_by_names_the_holder_and_where_it_is_asked(machine: Machine) -> None:
    first = machine.controller(named("host:/home:1", "http://10.0.0.1:8484"))
    second = machine.controller(named("host:/home:2", "http://10.0.0.2:8484"))
    first.look()
    second.look()
    with pytest.raises(NotLeading) as refused:
        second.require_last()
    assert refused.value.leader == "http://10.0.0.1:8484"
    told = wire_errors.from_json(wire_errors.to_json(refused.value))
    assert isinstance(told, NotLeading)
    assert (told.leader, told.problem) == (refused.value.leader, refused.value.problem)
