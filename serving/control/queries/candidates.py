"""The table of what was tried: every precision for every target, what was measured, passed or why not."""

from __future__ import annotations

from collections.abc import Iterable

from model_store.gates.choose import shortfalls
from model_store.records import read_report
from model_store.stages.base import Gated
from model_store.types import Check
from serving.control.bundle_comparison import accuracy_of
from serving.control.queries.views import CandidateRow, CheckRow

CHOSEN, PASSED, MISSED, NONE = "chosen", "passed", "missed", "none"


def candidate_rows(gated: Iterable[Gated], *, runtime: str, chosen: str | None) -> tuple[CandidateRow, ...]:
    """`runtime`: the target that serves what was exported; `chosen`: the precision of the bundle, None
    while there is none.
    """
    rows = [row for one in gated for row in _rows(one, runtime, chosen)]
    # int8 is made once for each layout, and each is no use to the other's targets: nobody needs to know.
    made = {(row.precision, row.target) for row in rows if row.status != NONE}
    rows = [row for row in rows if row.status != NONE or (row.precision, row.target) not in made]
    return tuple(sorted(rows, key=lambda row: (CHOSEN, PASSED, MISSED, NONE).index(row.status)))


def _rows(gated: Gated, runtime: str, chosen: str | None) -> list[CandidateRow]:
    report = read_report(gated["report"])
    precision = gated["variant"]["precision"]
    runtime = "python" if precision == "original" else runtime
    verdict = PASSED if report.passed else MISSED if report.checks else NONE
    words = "every limit kept" if report.passed else f"missed {shortfalls(report)}" if report.checks else ""
    checks = tuple(CheckRow(check.name, _in_words(check), check.passed) for check in report.checks)
    accuracy, before = accuracy_of(report.checks)
    rows = []
    if served := gated["served"]:
        profile = gated["profile"] or {}
        rows.append(
            CandidateRow(
                precision=precision,
                target=runtime,
                status=CHOSEN if verdict == PASSED and precision == chosen else verdict,
                reason=words,
                accuracy=accuracy,
                accuracy_before=before,
                p50_ms=profile.get("p50_ms"),
                p99_ms=profile.get("p99_ms"),
                size_mb=served["size_bytes"] / 1e6,
                checks=checks,
            )
        )
    for engine in [one for one in gated["engines"] if one != served]:
        engine_words = f"{words}; built, its speed shows only on its GPU".removeprefix("; ")
        target, size = engine["format"], engine["size_bytes"] / 1e6
        shown = () if served else checks
        rows.append(
            CandidateRow(precision, target, verdict, engine_words, accuracy, before, None, None, size, shown)
        )
    for reason in gated["reasons"]:
        target = reason.rpartition(" for ")[2] if " is not for " in reason else runtime
        rows.append(CandidateRow(precision, target, NONE, reason, None, None, None, None, None))
    return rows


def _in_words(check: Check) -> str:
    measured = f"{check.observed:.4g}, limit {check.limit:.4g}"
    return f"{measured}: {check.detail}" if check.detail else measured
