"""A home of before there was a ledger, at a canary of 50 %, written by the last Slipway that had files."""

from __future__ import annotations

import json
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serving.ledger.base import Ledger
from serving.ledger.home_files import MOVED_FOR_GOOD
from serving.ledger.importing import import_home
from serving.ledger.memory import MemoryLedger
from serving.ledger.opening import open_ledger
from serving.ledger.rows import (
    KINDS,
    AttemptRow,
    AuditRow,
    DeliveryRow,
    EventRow,
    FreezeRow,
    LockRow,
    MessageRow,
    NoteRow,
    ObservationRow,
    OverrideRow,
    ReleaseRecord,
    RequestRow,
    RolloutRow,
    RouteChangeRow,
    RouteRow,
)

HOME = Path(__file__).parent / "home"
NOW = datetime(2026, 12, 1, tzinfo=UTC)
RELEASE = "fraud-v2-20261121T120000Z"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return Path(shutil.copytree(HOME, tmp_path / "home"))


@pytest.fixture(scope="module")
def imported() -> Ledger:
    ledger = MemoryLedger()
    import_home(HOME, ledger, at=NOW)
    return ledger


def test_the_canary_stands_where_it_stood(imported: Ledger) -> None:
    rollout, route = imported.get(RolloutRow, RELEASE), imported.get(RouteRow, "fraud")
    assert (rollout.phase, rollout.is_over, rollout.document["step"]) == ("progressing", False, 1)
    assert (route.stable_version, route.candidate_version, route.candidate_weight) == (1, 2, 50)
    assert route.document["candidate"]["endpoints"] == [{"host": "127.0.0.1", "port": 9002}]
    assert route.generation == route.document["revision"] == imported.find(RouteChangeRow)[-1].revision
    assert [one.kind for one in imported.find(EventRow, release_id=RELEASE)] == ["started", "shift", "shift"]


def test_it_says_what_those_say_who_wrote_the_files(imported: Ledger, home: Path) -> None:
    from serving.control.audit import AuditTrail
    from serving.control.releases import Releases
    from serving.control.rollout.journal import KeptJournal
    from serving.gateway.router.envoy_file import EnvoyFileRouter
    from serving.gateway.router.kept import LedgerRouter
    from serving.home import Home, Ports

    journal, told = KeptJournal(imported), EnvoyFileRouter(Home(home, Ports()))
    saved = json.loads((home / "journal" / "fraud" / f"{RELEASE}.json").read_bytes())["state"]
    assert imported.get(RolloutRow, RELEASE).generation == saved["generation"] + 1
    assert journal.load(RELEASE).generation == saved["generation"]
    assert LedgerRouter(imported, told).read("fraud") == told.read("fraud"), "no weight changes"
    assert [one.at for one in imported.find(ObservationRow)] == [one.at for one in journal.records(RELEASE)]
    releases = {one.id: one.request.at for one in Releases(imported).of_model("fraud")}
    assert {one.id: one.requested_at for one in imported.find(ReleaseRecord)} == releases
    told = [
        (one.at, one.who, one.reason)
        for one in AuditTrail(imported, home / "late").entries()
        if one.action != "import"
    ]
    kept = [(one.at, one.who, one.reason) for one in imported.find(AuditRow) if one.action != "import"]
    assert kept == told[::-1]


def test_people_s_acts_and_orders_are_there_and_nothing_is_left_to_do(imported: Ledger) -> None:
    freezes = {one.reason: one.lifted_by for one in imported.find(FreezeRow)}
    assert freezes == {"quarter's end": "", "audit": "ann"}
    assert imported.get(OverrideRow, RELEASE).reason == "fixes an incident"
    (rollback,) = imported.find(RequestRow)
    assert (rollback.action, rollback.by, rollback.status) == ("rollback", "cat", "done")
    turn = imported.get(LockRow, "fraud")
    assert (turn.holder, turn.waiting) == (RELEASE, "fraud-v3-20261121T120030Z")
    assert {one.kind for one in imported.find(NoteRow, model="fraud", ended_at=None)} == {
        "hold",
        "asked_back",
        "alias",
    }
    tried = {one.version: (one.run_id, one.withdrawn) for one in imported.find(AttemptRow)}
    assert tried == {2: ("", 1), 3: ("release_fraud/event__3", 0)}
    assert imported.get(ReleaseRecord, "fraud-v1-20261120T090000Z").status == "promoted"
    assert {one.id: one.status for one in imported.find(MessageRow)} == {
        "m0.0": "waiting",
        "m1.0": "sent",
        "m2.0": "given_up",
    }
    assert [one.words for one in imported.find(DeliveryRow)] == ["started release"]


def test_a_line_torn_by_a_crash_is_left_out_and_counted(tmp_path: Path) -> None:
    found = import_home(HOME, MemoryLedger(), at=NOW)
    assert (found.torn_lines, found.unreadable) == (1, ())


def test_a_second_import_writes_nothing(sqlite_url: str, home: Path) -> None:
    ledger = open_ledger(sqlite_url)
    first = import_home(home, ledger, at=NOW)
    assert first.files > 15
    before = dump(sqlite_url)
    again = import_home(home, ledger, at=NOW + timedelta(days=1))
    assert (again.files, again.known, again.rows) == (0, first.files, {})
    assert dump(sqlite_url) == before
    assert ledger.verify_audit().number == len(ledger.find(AuditRow))
    ledger.close()


def test_an_import_that_is_cut_off_anywhere_is_finished_by_the_next(home: Path) -> None:
    whole = MemoryLedger()
    files = import_home(home, whole, at=NOW).files
    for place in range(files):
        ledger = CutOff(place)
        with pytest.raises(KeyboardInterrupt):
            import_home(home, ledger, at=NOW)
        import_home(home, ledger, at=NOW)
        for kind in KINDS:
            if kind is not AuditRow:
                assert ledger.find(kind) == whole.find(kind), kind
        assert len(ledger.find(AuditRow, action="import")) == 1
        ledger.verify_audit()


class CutOff(MemoryLedger):
    """Killed once, before it takes over its file number `place`."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self._left = place

    def adopt(self, source, rows):  # type: ignore[no-untyped-def]
        if self._left == 0:
            self._left = -1
            raise KeyboardInterrupt
        self._left -= 1
        return super().adopt(source, rows)


def test_the_files_are_only_read(home: Path) -> None:
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    for path in home.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    import_home(home, MemoryLedger(), at=NOW)
    for path in home.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_a_file_that_somebody_still_writes_is_named(home: Path) -> None:
    ledger = MemoryLedger()
    import_home(home, ledger, at=NOW)
    path = home / "journal" / "fraud" / f"{RELEASE}.json"
    path.write_bytes(path.read_bytes().replace(b'"progressing"', b'"rolled_back"'))
    again = import_home(home, ledger, at=NOW)
    assert again.changed == (f"journal/fraud/{RELEASE}.json",)
    assert ledger.get(RolloutRow, RELEASE).phase == "progressing"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (f"journal/fraud/{RELEASE}.json", b"", "JSONDecodeError"),
        (f"journal/fraud/{RELEASE}.json", b'{"schema": 2, "state": {}, "timeline": []}', "newer Slipway"),
        ("envoy/routes/fraud/endpoints.json", b'{"resources": []}', "IndexError"),
        (f"releases/fraud/{RELEASE}.json", b"[1, 2]", "TypeError"),
        ("outbox/m0.0.json", b'{"message": null}', "TypeError"),
    ],
)
def test_a_file_that_is_none_is_named_keeps_no_other_and_is_taken_over_when_it_is_mended(
    home: Path, name: str, content: bytes, why: str
) -> None:
    right = (home / name).read_bytes()
    (home / name).write_bytes(content)
    ledger = MemoryLedger()
    first = import_home(home, ledger, at=NOW)
    ((unreadable, words),) = first.unreadable
    assert unreadable == name
    assert why in words
    (home / name).write_bytes(right)
    assert import_home(home, ledger, at=NOW).files == 1
    assert import_home(HOME, MemoryLedger(), at=NOW).files == first.files + 1


def test_a_home_in_which_nothing_happened_is_nothing_to_take_over(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    assert import_home(tmp_path, ledger, at=NOW).files == 0
    assert ledger.find(AuditRow) == []


def dump(url: str) -> list[str]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    found = list(connection.iterdump())
    connection.close()
    return found


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"by_controller": True}, "open"),
        ({"by_controller": True, "switched_at": "2026-11-21T12:00:00+00:00"}, "done"),
        ({"by_controller": True, "failed": "out of memory"}, "failed"),
        ({}, "done"),
    ],
)
def test_of_rollbacks_only_what_a_controller_had_begun_and_not_ended_goes_on(
    home: Path, said: dict[str, object], status: str
) -> None:
    (path,) = (home / "releases" / "fraud" / "rollbacks").glob("*.json")
    kept = {"id", "leaves", "returns", "wish", "schema"}
    saved = {name: value for name, value in json.loads(path.read_bytes()).items() if name in kept}
    path.write_text(json.dumps({**saved, **said}))
    ledger = MemoryLedger()
    import_home(home, ledger, at=NOW, kinds=MOVED_FOR_GOOD, only_new=True)
    (rollback,) = ledger.find(RequestRow)
    assert (rollback.status, len(ledger.find(ReleaseRecord))) == (status, 3)
