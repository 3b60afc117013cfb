"""What every `Ledger` does. Subclass `LedgerContract` and give it a `ledgers` fixture; of one that several
processes share, `SharedLedgerContract`, and give it a `url` too."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psutil
import pytest

from serving.ledger import chain
from serving.ledger.base import (
    BrokenChain,
    Fenced,
    Head,
    ImportedFile,
    Lease,
    Ledger,
    Once,
    StaleGeneration,
    Unknown,
    UnknownField,
    Unreachable,
)
from serving.ledger.opening import open_ledger
from serving.ledger.rows import (
    AuditRow,
    DeliveryRow,
    EventRow,
    MessageRow,
    ObservationRow,
    ReleaseRecord,
    RolloutRow,
    RouteChangeRow,
    RouteRow,
    Unstorable,
)
from serving.ledger.sql import SqlLedger
from tests.contract.ledger_process import AT, parts_of, rollout, whole_change

# Opens the same ledger, by a clock of the test's own.
Ledgers = Callable[[Callable[[], datetime]], Ledger]
SECOND = timedelta(seconds=1)
WHOLE = [1] * 12
NOTHING = [0] * 12


class Clock:
    """A clock that goes where it is told."""

    def __init__(self) -> None:
        self.at = AT

    def __call__(self) -> datetime:
        return self.at


def entry(action: str, **more: Any) -> AuditRow:
    return AuditRow(at=AT, who="ann", action=action, **more)


def letter(name: str, *, at: datetime = AT) -> MessageRow:
    return MessageRow(id=name, model="fraud", at=at, next_at=at)


class LedgerContract:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def ledger(self, ledgers: Ledgers, clock: Clock) -> Ledger:
        return ledgers(clock)

    # Rows and generations

    def test_what_was_saved_is_read_back(self, ledger: Ledger) -> None:
        document = {"plan": {"steps": [5, 25.5, 1e-7], "first": None}, "ok": True, "words": "für ö 🙂 \0"}
        (kept,) = ledger.save(replace(rollout("fraud-v3"), document=document))
        assert kept == replace(rollout("fraud-v3"), document=document, generation=1)
        assert ledger.get(RolloutRow, "fraud-v3") == kept

    def test_a_save_from_an_older_generation_is_refused_and_names_both(self, ledger: Ledger) -> None:
        (first,) = ledger.save(rollout("fraud-v3"))
        (second,) = ledger.save(replace(first, phase="watching"))
        with pytest.raises(StaleGeneration, match=r"fraud-v3 is at generation 2, .* on generation 1"):
            ledger.save(replace(first, phase="rolled_back"))
        assert ledger.get(RolloutRow, "fraud-v3") == second

    def test_what_exists_is_not_made_anew_nor_what_does_not_replaced(self, ledger: Ledger) -> None:
        ledger.save(rollout("fraud-v3"))
        with pytest.raises(StaleGeneration, match="on there being none"):
            ledger.save(rollout("fraud-v3"))
        with pytest.raises(StaleGeneration, match="is not in the ledger"):
            ledger.save(rollout("fraud-v4", generation=2))

    def test_of_a_change_with_one_stale_row_nothing_is_written(self, ledger: Ledger) -> None:
        ledger.save(rollout("old"))
        with pytest.raises(StaleGeneration):
            ledger.save(*whole_change("new"), rollout("old", generation=7))
        assert parts_of(ledger, "new") == NOTHING  # type: ignore[arg-type]
        assert ledger.verify_audit() == Head(0, "0" * 64)

    def test_a_change_is_written_whole_and_returned_in_its_order(self, ledger: Ledger) -> None:
        change = whole_change("new")
        written = ledger.save(*change)
        assert parts_of(ledger, "new") == WHOLE  # type: ignore[arg-type]
        kinds = [type(getattr(one, "row", one)) for one in change]
        assert [type(row) for row in written] == kinds
        assert written[1] == replace(change[1], generation=1)

    def test_of_many_threads_with_one_generation_exactly_one_saves(self, ledger: Ledger) -> None:
        (seen,) = ledger.save(rollout("fraud-v3"))

        def save(step: int) -> bool:
            try:
                ledger.save(replace(seen, document={"step": step}))
            except StaleGeneration:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(save, range(8))) == 1
        assert ledger.get(RolloutRow, "fraud-v3").generation == 2

    def test_of_two_that_create_a_row_the_first_is_told_so_and_the_second_changes_nothing(
        self, ledger: Ledger
    ) -> None:
        taken = DeliveryRow(id="mlflow/123", source="mlflow", at=AT, words="first")
        assert ledger.create(taken)
        assert not ledger.create(replace(taken, words="second"))
        assert ledger.get(DeliveryRow, "mlflow/123").words == "first"

    def test_a_message_of_a_change_is_written_once_however_often_the_change_is_made(
        self, ledger: Ledger
    ) -> None:
        ledger.save(Once(letter("m.0")))
        (kept,) = ledger.save(Once(replace(letter("m.0"), tries=5)))
        assert kept == ledger.get(MessageRow, "m.0")
        assert isinstance(kept, MessageRow)
        assert (kept.tries, kept.generation) == (0, 1)

    def test_a_row_that_is_not_there_lists_the_latest(self, ledger: Ledger) -> None:
        ledger.save(rollout("fraud-v3"))
        with pytest.raises(Unknown, match="no rollout fraud-v9; the latest are: fraud-v3"):
            ledger.get(RolloutRow, "fraud-v9")

    def test_each_write_of_a_route_is_in_its_history(self, ledger: Ledger) -> None:
        (first,) = ledger.save(RouteRow(service="fraud", at=AT, stable_version=2, stable_bundle_id="ab"))
        ledger.save(replace(first, candidate_version=3, candidate_weight=12.5, at=AT + SECOND))
        found = [
            (c.revision, c.at, c.candidate_version, c.candidate_weight) for c in ledger.find(RouteChangeRow)
        ]
        assert found == [(1, AT, None, 0), (2, AT + SECOND, 3, 12.5)]

    # Queries

    def test_rows_are_found_by_their_fields_oldest_first(self, ledger: Ledger) -> None:
        for number, phase in enumerate(("done", "rolled_back", "progressing", "watching")):
            ledger.save(
                replace(
                    rollout(f"fraud-v{number}", phase=phase), started_at=AT - number * SECOND, version=number
                )
            )
        assert [row.version for row in ledger.find(RolloutRow)] == [3, 2, 1, 0]
        assert [row.version for row in ledger.find(RolloutRow, is_over=False)] == [3, 2]
        assert [row.version for row in ledger.find(RolloutRow, phase=("done", "watching"))] == [3, 0]
        assert [row.version for row in ledger.find(RolloutRow, newest=2, skip=1)] == [1, 2]
        assert [row.version for row in ledger.find(RolloutRow, since=AT - 2 * SECOND, until=AT - SECOND)] == [
            2,
            1,
        ]
        assert ledger.find(RolloutRow, service="other") == []

    def test_what_is_missing_can_be_asked_for(self, ledger: Ledger) -> None:
        ledger.save(entry("freeze"), entry("release", model="fraud"))
        assert [one.action for one in ledger.find(AuditRow, model=None)] == ["freeze"]

    def test_a_field_that_rows_are_not_found_by_lists_those_they_are(self, ledger: Ledger) -> None:
        with pytest.raises(UnknownField, match=r"'colour'.*service"):
            ledger.find(RolloutRow, colour="red")
        with pytest.raises(UnknownField, match="number"):
            ledger.find(RolloutRow, after=3)

    # What comes from outside

    @pytest.mark.parametrize(
        "wrong",
        [
            entry("a\0b"),
            entry("x", reason="half of an emoji: \ud83d"),
            entry("x", document={"a": "half of an emoji: \ud83d"}),
            entry("x" * 501),
            entry("x", version=2**63),
            replace(entry("x"), at=datetime(2026, 1, 1)),  # noqa: DTZ001
            replace(rollout("x"), document={"latency": float("nan")}),
            replace(rollout("x"), document={"at": AT}),
            RouteRow(service="x", at=AT, candidate_weight=float("inf")),
        ],
    )
    def test_what_one_database_would_refuse_none_takes(
        self, ledger: Ledger, wrong: AuditRow | RolloutRow
    ) -> None:
        with pytest.raises(Unstorable):
            ledger.save(wrong)
        assert ledger.find(type(wrong)) == []

    def test_long_reasons_and_times_of_other_zones_are_kept(self, ledger: Ledger) -> None:
        there = datetime(2026, 7, 1, 14, 30, 15, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45)))
        ledger.save(replace(entry("release", reason="because 'quoted'; -- %s :x\n" * 500), at=there))
        (kept,) = ledger.find(AuditRow)
        assert (kept.at, kept.at.tzinfo, len(kept.reason)) == (there, UTC, 13_500)

    # The audit trail

    def test_the_audit_trail_is_a_chain_whose_head_can_be_kept_elsewhere(self, ledger: Ledger) -> None:
        ledger.save(entry("release", document={"via": "cli"}), entry("approve"))
        known = ledger.verify_audit()
        ledger.save(entry("freeze"))
        assert ledger.verify_audit(known).number == 3
        with pytest.raises(BrokenChain, match="entry 2 was kept"):
            ledger.verify_audit(Head(2, "f" * 64))

    def test_an_act_that_is_written_again_is_one_entry(self, ledger: Ledger) -> None:
        act = entry("rollback")
        ledger.save(act)
        ledger.save(act, rollout("fraud-v3"))
        assert [one.number for one in ledger.find(AuditRow)] == [1]
        assert ledger.verify_audit().number == 1

    # Observations

    def test_observations_are_read_on_from_where_one_was(self, ledger: Ledger) -> None:
        seen = [
            ObservationRow(release_id=name, at=AT, place=place, document={"n": place})
            for place in range(3)
            for name in ("a", "b")
        ]
        ledger.observe(*seen)
        found = ledger.find(ObservationRow, release_id="a")
        assert [one.place for one in found] == [0, 1, 2]
        assert ledger.find(ObservationRow, release_id="a", after=found[1].number) == found[2:]
        assert ledger.find(ObservationRow, release_id="a", newest=1) == found[2:]

    def test_pruning_forgets_what_is_over_and_nothing_else(self, ledger: Ledger) -> None:
        for name, phase in (("old", "done"), ("under-way", "progressing")):
            ledger.save(*whole_change(name)[:1], rollout(name, phase=phase))
            ledger.observe(ObservationRow(release_id=name, at=AT, place=0, document={}))
        ledger.create(DeliveryRow(id="mlflow/1", source="mlflow", at=AT))
        ledger.save(letter("waits"), replace(letter("sent"), status="sent"))
        assert ledger.prune(AT) == {"observations": 0, "deliveries": 0, "letters": 0}
        assert ledger.prune(AT + SECOND) == {"observations": 1, "deliveries": 1, "letters": 1}
        assert [one.release_id for one in ledger.find(ObservationRow)] == ["under-way"]
        assert [one.id for one in ledger.find(MessageRow)] == ["waits"]
        assert ledger.verify_audit().number == 2
        # A number that was given is never given again: a reader who was there would miss it.
        (kept,) = ledger.find(ObservationRow)
        ledger.observe(ObservationRow(release_id="new", at=AT, place=0, document={}))
        assert ledger.find(ObservationRow, newest=1)[0].number > kept.number

    # Leases

    def test_a_lease_has_one_holder_until_it_is_over_and_every_holder_a_higher_token(
        self, ledger: Ledger, clock: Clock
    ) -> None:
        first = ledger.acquire("controller", "a", seconds=10)
        assert first
        clock.at += 9 * SECOND
        assert ledger.acquire("controller", "b", seconds=10) is None
        assert ledger.acquire("controller", "a", seconds=10) is None, "a second process of that name"
        assert ledger.acquire("another", "b", seconds=10)
        renewed = ledger.renew(first)
        clock.at += 9 * SECOND
        assert ledger.acquire("controller", "b", seconds=10) is None
        clock.at = renewed.expires_at
        second = ledger.acquire("controller", "b", seconds=10)
        assert second
        assert (first.token, second.token) == (1, 2)
        assert ledger.lease("controller") == second

    def test_who_lost_the_lease_writes_nothing_more(self, ledger: Ledger, clock: Clock) -> None:
        first = ledger.acquire("controller", "a", seconds=10)
        assert first
        ledger.save(rollout("before"), fence=first.fence)
        clock.at += 10 * SECOND
        # It is over, but nobody else has it: nobody could be in the way.
        ledger.observe(ObservationRow(release_id="before", at=AT, place=0, document={}), fence=first.fence)
        second = ledger.acquire("controller", "b", seconds=10)
        assert second
        for write in (
            lambda: ledger.save(*whole_change("late"), fence=first.fence),
            lambda: ledger.create(rollout("late"), fence=first.fence),
            lambda: ledger.observe(whole_change("late")[-1], fence=first.fence),
            lambda: ledger.renew(first),
        ):
            with pytest.raises(Fenced, match=r"of a under token 1 is over: b has it under token 2"):
                write()
        ledger.release(first)
        assert parts_of(ledger, "late") == NOTHING  # type: ignore[arg-type]
        ledger.save(rollout("after"), fence=second.fence)

    def test_a_lease_that_is_given_back_is_free_at_once_and_over_for_its_holder(self, ledger: Ledger) -> None:
        first = ledger.acquire("controller", "a", seconds=600)
        assert first
        ledger.release(first)
        with pytest.raises(Fenced):
            ledger.save(rollout("late"), fence=first.fence)
        second = ledger.acquire("controller", "b", seconds=600)
        assert second
        assert second.token == 2

    def test_a_clock_that_goes_back_neither_frees_a_lease_nor_keeps_it_for_ever(
        self, ledger: Ledger, clock: Clock
    ) -> None:
        assert ledger.acquire("controller", "a", seconds=10)
        clock.at -= timedelta(hours=3)
        assert ledger.acquire("controller", "b", seconds=10) is None
        clock.at += 9 * SECOND
        assert ledger.acquire("controller", "b", seconds=10) is None
        clock.at += SECOND
        assert ledger.acquire("controller", "b", seconds=10)

    def test_a_clock_that_goes_forward_leaves_one_who_can_write(self, ledger: Ledger, clock: Clock) -> None:
        first = ledger.acquire("controller", "a", seconds=10)
        assert first
        clock.at += timedelta(hours=3)
        second = ledger.acquire("controller", "b", seconds=10)
        assert second
        with pytest.raises(Fenced):
            ledger.save(rollout("late"), fence=first.fence)
        ledger.save(rollout("mine"), fence=second.fence)

    def test_a_lease_that_was_got_elsewhere_is_respected_and_an_older_one_is_not(
        self, ledger: Ledger
    ) -> None:
        first, second = Lease("platform", "a", 3, AT, 10), Lease("platform", "b", 4, AT, 10)
        ledger.respect(first)
        ledger.respect(first)
        ledger.save(rollout("mine"), fence=first.fence)
        ledger.respect(second)
        ledger.save(rollout("theirs"), fence=second.fence)
        with pytest.raises(Fenced):
            ledger.save(rollout("late"), fence=first.fence)
        for older in (first, Lease("platform", "c", 4, AT, 10)):
            with pytest.raises(Fenced, match="b has it under token 4"):
                ledger.respect(older)

    # The outbox

    def test_a_letter_is_claimed_once_and_again_when_its_claimer_died(
        self, ledger: Ledger, clock: Clock
    ) -> None:
        ledger.save(
            letter("late", at=AT + 100 * SECOND), letter("second", at=AT), letter("first", at=AT - SECOND)
        )
        assert [one.id for one in ledger.claim(seconds=30, limit=5)] == ["first", "second"]
        assert ledger.claim(seconds=30, limit=5) == []
        clock.at += 30 * SECOND
        assert [one.id for one in ledger.claim(seconds=30, limit=1)] == ["first"]

    def test_what_was_delivered_is_claimed_no_more_and_what_was_not_later(
        self, ledger: Ledger, clock: Clock
    ) -> None:
        ledger.save(letter("good"), letter("bad"))
        bad, good = ledger.claim(seconds=30, limit=5)
        ledger.save(replace(good, status="sent"), replace(bad, tries=1, next_at=AT + 100 * SECOND))
        clock.at += 99 * SECOND
        assert ledger.claim(seconds=30, limit=5) == []
        clock.at += SECOND
        (again,) = ledger.claim(seconds=30, limit=5)
        assert (again.id, again.tries) == ("bad", 1)

    def test_who_took_too_long_does_not_end_a_letter_that_another_has(
        self, ledger: Ledger, clock: Clock
    ) -> None:
        ledger.save(letter("m"))
        (slow,) = ledger.claim(seconds=30, limit=1)
        clock.at += 31 * SECOND
        assert ledger.claim(seconds=30, limit=1)
        with pytest.raises(StaleGeneration):
            ledger.save(replace(slow, status="sent"))

    # Taking over what others wrote

    def test_a_source_is_taken_over_once_generations_and_all(self, ledger: Ledger) -> None:
        release = ReleaseRecord(
            id="fraud-v1", model="fraud", version=1, requested_at=AT, requested_by="ann", generation=1
        )
        rows = (rollout("fraud-v1", generation=17), release, entry("release"), whole_change("fraud-v1")[3])
        assert ledger.adopt(ImportedFile("journal/fraud-v1.json", "sha256:1"), rows)
        assert not ledger.adopt(ImportedFile("journal/fraud-v1.json", "sha256:2"), rows)
        assert ledger.adopted() == {"journal/fraud-v1.json": "sha256:1"}
        assert ledger.get(RolloutRow, "fraud-v1").generation == 17
        assert (len(ledger.find(EventRow)), ledger.verify_audit().number) == (1, 1)

    def test_what_is_there_is_not_taken_over(self, ledger: Ledger) -> None:
        (mine,) = ledger.save(rollout("fraud-v1"))
        assert ledger.adopt(ImportedFile("journal", "sha256:1"), [rollout("fraud-v1", generation=17)])
        assert ledger.get(RolloutRow, "fraud-v1") == mine


class SharedLedgerContract(LedgerContract):
    """Of ledgers that processes share: two at once, stopped ones, killed ones."""

    @pytest.fixture
    def shared(self, url: str) -> Iterator[SqlLedger]:
        ledger = open_ledger(url)
        yield ledger
        ledger.close()

    def test_of_processes_at_once_one_gets_what_there_is_one_of_and_the_audit_trail_has_no_gap(
        self, url: str, shared: SqlLedger
    ) -> None:
        shared.save(rollout("fraud-v3"), *(letter(f"m{number}") for number in range(20)))
        saved, created, acquired, claimed, appended = said(url, "race")
        assert sorted(saved) == ["saved", "stale", "stale", "stale"]
        assert shared.get(RolloutRow, "fraud-v3").generation == 2
        assert sorted(created) == ["mine", "theirs", "theirs", "theirs"]
        assert sorted(acquired) == [""] * 7 + ["1"]
        assert sorted(" ".join(claimed).split()) == sorted(f"m{number}" for number in range(20))
        assert appended == ["done"] * 8
        assert shared.verify_audit().number == 80
        assert [one.action for one in shared.find(AuditRow, who="writer-3")] == [
            f"act-{act}" for act in range(10)
        ]

    def test_a_change_whose_process_is_killed_at_any_statement_is_whole_or_not_there(self, url: str) -> None:
        left = said(url, "die_everywhere")
        assert all(parts in (NOTHING, WHOLE) for _, parts in left)
        assert left[0] == [True, NOTHING]
        assert left[-1] == [False, WHOLE]
        assert len(left) > 10

    def test_who_was_stopped_for_longer_than_its_lease_writes_nothing_when_it_goes_on(
        self, url: str, shared: SqlLedger
    ) -> None:
        with other(url, "hold", "0.5") as process:
            assert told(process) == 1
            process.send_signal(signal.SIGSTOP)
            lease = None
            while lease is None:
                lease = shared.acquire("controller", "the second", seconds=600)
            process.send_signal(signal.SIGCONT)
            process.stdin.write("go on\n")
            process.stdin.flush()
            assert told(process) == "fenced"
        assert shared.find(RolloutRow) == []
        assert lease.token == 2

    def test_who_was_stopped_inside_a_change_makes_nobody_wait_for_ever_and_breaks_no_fence(
        self, url: str
    ) -> None:
        ledger = open_ledger(url, patience_seconds=0.3)
        with other(url, "stop_inside", "0.1") as process:
            assert told(process) == 1
            answers: list[object] = []
            while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
                pass
            # PostgreSQL ends the transaction of who says nothing; SQLite's lock is the stopped process's own.
            while len(answers) < 8 and not any(isinstance(answer, Lease) for answer in answers):
                try:
                    answers.append(ledger.acquire("controller", "the second", seconds=600))
                except Unreachable as problem:
                    answers.append(problem)
            process.send_signal(signal.SIGCONT)
            outcome = told(process)
        written = [row.release_id for row in ledger.find(RolloutRow)]
        if any(isinstance(answer, Lease) for answer in answers):
            assert (outcome, written) == ("Unreachable", [])
        else:
            assert (outcome, written) == ("written", ["late"])
        ledger.close()

    def test_while_another_keeps_it_locked_a_write_is_retryable_and_a_read_waits_for_nobody(
        self, url: str, shared: SqlLedger
    ) -> None:
        shared.save(letter("m"))
        impatient = open_ledger(url, patience_seconds=0.3)
        with other(url, "lock") as process:
            assert told(process) == "locked"
            # The lock is not given back before this has been refused.
            with pytest.raises(Unreachable):
                impatient.save(rollout("fraud-v3"))
            assert impatient.get(MessageRow, "m")
            process.stdin.write("enough\n")
            process.stdin.flush()
            process.wait()
        impatient.save(rollout("fraud-v3"))
        impatient.close()

    def test_four_processes_that_open_a_new_ledger_make_its_tables_once(self, empty_url: str) -> None:
        assert said(empty_url, "open_at_once") == [["0"] * 4]

    def test_the_database_itself_refuses_to_change_the_audit_trail(self, shared: SqlLedger) -> None:
        shared.save(entry("release"))
        for statement in ("UPDATE audit SET who = 'bob'", "DELETE FROM audit"):
            with pytest.raises(Exception, match="only appended to"), shared.database.writing() as connection:
                connection.exec_driver_sql(statement)
        assert [one.who for one in shared.find(AuditRow)] == ["ann"]

    @pytest.mark.parametrize(
        ("tampering", "words"),
        [
            ("UPDATE audit SET reason = 'another' WHERE number = 2", "entry 2 is not what was written"),
            ("DELETE FROM audit WHERE number = 2", "entry 2 is not"),
            ("DELETE FROM audit WHERE number = 3", "ends with entry 2, and 3 were written"),
        ],
    )
    def test_whoever_changes_it_all_the_same_is_found(
        self, shared: SqlLedger, tampering: str, words: str
    ) -> None:
        shared.save(entry("release"), entry("approve"), entry("freeze"))
        with shared.database.writing() as connection:
            self.drop_triggers(connection)
            connection.exec_driver_sql(tampering)
        with pytest.raises(BrokenChain, match=words):
            shared.verify_audit()

    def test_whoever_gives_a_changed_entry_its_right_hash_is_found_by_the_next(
        self, shared: SqlLedger
    ) -> None:
        shared.save(entry("release"), entry("approve"), entry("freeze"))
        first, second, _ = shared.find(AuditRow)
        forged = chain.linked(replace(second, who="bob"), Head(1, first.hash))
        with shared.database.writing() as connection:
            self.drop_triggers(connection)
            change = f"UPDATE audit SET who = 'bob', hash = '{forged.hash}' WHERE number = 2"
            connection.exec_driver_sql(change)
        with pytest.raises(BrokenChain, match="entry 3 is not"):
            shared.verify_audit()

    def drop_triggers(self, connection: Any) -> None:
        raise NotImplementedError


def said(url: str, act: str) -> list[Any]:
    """All that another process printed."""
    command = [sys.executable, "-m", "tests.contract.ledger_process", act, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def other(url: str, act: str, *more: str) -> Iterator[Any]:
    """Another process, talked to by its standard streams."""
    command = [sys.executable, "-m", "tests.contract.ledger_process", act, url, *more]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: Any) -> Any:
    """The next thing it prints."""
    line = process.stdout.readline()
    assert line, "the other process ended"
    return json.loads(line)
