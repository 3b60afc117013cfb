"""What writing state costs: the ledger, beside files.

python -m benchmarks.ledger [--seconds 2] [--folder DIR] [--url postgresql://...]

A line of a table for each way of writing, then one JSON line. `--folder`: on the disk to be measured; a bare
`fsync` is measured beside it, because one that costs nothing keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import orjson

from serving.control.analysis import AnalysisPolicy
from serving.control.rollout.plan import Phase, RolloutPlan, RolloutState, RolloutStep
from serving.control.rollout.record import EndpointCounts, Record
from serving.ledger.opening import open_ledger
from serving.ledger.rows import AuditRow, EventRow, ObservationRow, RolloutRow
from serving.ledger.sql import SqlLedger
from serving.types import Counts, Endpoint, Finding, Outcome, TrafficSplit, Verdict

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
RELEASE = "fraud-v2-20261130T120000Z"
RELEASES = 20


@dataclass(frozen=True, slots=True)
class Measured:
    """`writes_per_second` counts observations or changes, not transactions. `cpu_ms` is this process's own,
    for one of them, whatever else the machine is at."""

    way: str
    writes_per_second: float
    cpu_ms: float
    median_ms: float
    p99_ms: float


def measure(way: str, write: Callable[[], object], *, seconds: float, each: int = 1) -> Measured:
    """Call `write`, which writes `each` things, for so long."""
    write()
    took: list[float] = []
    spent = time.process_time()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        write()
        took.append((time.perf_counter() - began) * 1000)
    cpu_ms = (time.process_time() - spent) * 1000 / len(took) / each
    rate, p99 = each * 1000 * len(took) / sum(took), sorted(took)[int(len(took) * 0.99)]
    return Measured(way, round(rate, 1), round(cpu_ms, 3), round(median(took), 3), round(p99, 3))


def of_files(root: Path, seconds: float) -> Iterator[Measured]:
    """What is there today."""
    plain = root / "plain"
    with plain.open("wb", buffering=0) as file:
        yield measure("fsync of one line", lambda: (file.write(b"x" * 900), os.fsync(file)), seconds=seconds)


def of_ledger(ledger: SqlLedger, seconds: float, name: str) -> Iterator[Measured]:
    """The same in the ledger, each under a lease's fence."""
    lease = ledger.acquire("benchmark", f"process {os.getpid()}", seconds=3600)
    assert lease
    seen = _observation()
    one = [seen]
    many = [replace(seen, release_id=f"r{number}") for number in range(RELEASES)]
    fence = lease.fence
    yield measure(f"{name}: an observation", lambda: ledger.observe(*one, fence=fence), seconds=seconds)
    way = f"{name}: a tick of {RELEASES} releases"
    yield measure(way, lambda: ledger.observe(*many, fence=fence), seconds=seconds, each=RELEASES)
    yield measure(f"{name}: an observation, durably", lambda: ledger.save(seen, fence=fence), seconds=seconds)
    state = RolloutRow(
        release_id=RELEASE,
        service="fraud",
        version=2,
        phase="progressing",
        is_over=False,
        started_at=AT,
        changed_at=AT,
        document=_json(_state()),
    )
    kept = [state]

    def save() -> None:
        event = EventRow(release_id=RELEASE, at=AT, kind="shift", detail="step 2 of 4", candidate_weight=25)
        row, _ = ledger.save(kept[0], event, fence=fence)
        assert isinstance(row, RolloutRow)
        kept[0] = row

    yield measure(f"{name}: a state and its event", save, seconds=seconds)
    yield measure(f"{name}: an act", lambda: ledger.save(_act(), fence=fence), seconds=seconds)
    yield measure(f"{name}: read a state", lambda: ledger.get(RolloutRow, RELEASE), seconds=seconds)
    ledger.release(lease)


def _act() -> AuditRow:
    return AuditRow(
        at=AT, who="ann", action="pause", model="fraud", version=2, release_id=RELEASE, reason="lunch"
    )


def _observation() -> ObservationRow:
    return ObservationRow(release_id=RELEASE, at=AT, place=1, document=_record().to_json())


def _record() -> Record:
    counts = Counts(120_345, 17, 903, 3601.5, 12, 3, 1)
    raw = {
        Endpoint("127.0.0.1", 8500 + number): EndpointCounts(40_000, 5, 300, 4, 1, 2, 0)
        for number in range(4)
    }
    numbers = (("stable", 0.0001), ("candidate", 0.0002), ("odds", 0.93))
    findings = tuple(
        Finding(rule, Outcome.PASS, f"candidate {rule}: 0.02 %, stable 0.01 %, tolerance 0.5 %", numbers)
        for rule in ("errors", "latency", "refusals")
    )
    verdict = Verdict.of(findings, at=AT)
    return Record(AT, 1000.0, 1, 0.25, True, True, 30.0, counts, counts, raw, verdict)


def _state() -> RolloutState:
    steps = tuple(RolloutStep(TrafficSplit(100 - weight, weight), 60) for weight in (5, 25, 50, 100))
    plan = RolloutPlan("canary", steps, 600, 900, AnalysisPolicy(0.001, 0.01, 0.005, 500, 0.01, 50))
    return RolloutState(RELEASE, "fraud", 2, 1, plan, 1, AT, Phase.PROGRESSING, 0, "fraud-blue-b2", AT, 3)


def _json(state: RolloutState) -> dict[str, object]:
    read: dict[str, object] = orjson.loads(orjson.dumps(state))
    return read


@contextmanager
def _opened(url: str) -> Iterator[SqlLedger]:
    ledger = open_ledger(url)
    try:
        yield ledger
    finally:
        ledger.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--url", help="of an empty PostgreSQL database, which is filled")
    chosen = parser.parse_args()
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        measured += of_files(Path(folder), chosen.seconds)
        with _opened(f"sqlite:///{folder}/ledger.db") as ledger:
            measured += of_ledger(ledger, chosen.seconds, "SQLite")
    if chosen.url:
        with _opened(chosen.url) as ledger:
            measured += of_ledger(ledger, chosen.seconds, "PostgreSQL")
    print(f"{'':40}{'a second':>10}{'CPU ms':>9}{'median ms':>11}{'p99 ms':>9}")
    for each in measured:
        figures = f"{each.cpu_ms:>9.3f}{each.median_ms:>11.2f}{each.p99_ms:>9.2f}"
        print(f"{each.way:40}{each.writes_per_second:>10,.0f}{figures}")
    load = round(os.getloadavg()[0], 1)
    figures_of = {one.way: {"a_second": one.writes_per_second, "cpu_ms": one.cpu_ms} for one in measured}
    print(json.dumps({"load": load, "ways": figures_of}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
