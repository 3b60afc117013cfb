"""The controller's own records are what a replay is fed with."""

import json
from datetime import UTC, datetime, timedelta

from serving.control.analysis import AnalysisPolicy
from serving.control.analysis.rules import replay
from serving.control.rollout.observe import between
from serving.control.rollout.record import Record
from serving.types import Counts, Outcome, Verdict

STRICT = AnalysisPolicy(0.001, 0.01, 0.005, 500, 0.01, 50)
LENIENT = AnalysisPolicy(0.001, 0.5, 0.5, 500, 0.5, 50)
BEGAN = datetime(2026, 11, 21, 12, tzinfo=UTC)


def record(second: int) -> Record:
    """Cumulative, as the controller writes it: from the tenth second on a fifth of the candidate fails."""
    at = BEGAN + timedelta(seconds=second)
    errors = 4 * max(second - 10, 0)
    return Record(
        at=at,
        monotonic=float(second),
        place=0,
        share=0.2,
        settled=True,
        retries_on_stable=False,
        step_seconds=float(second),
        stable=Counts(80 * second, 0, 0, float(second)),
        candidate=Counts(20 * second, errors, 0, float(second)),
        raw={},
        verdict=Verdict(Outcome.INCONCLUSIVE, (), at),
    )


def test_records_written_and_read_again_are_judged_as_they_were_seen() -> None:
    lines = [json.loads(json.dumps(record(second).to_json())) for second in range(1, 30)]
    records = [Record.from_json(line) for line in lines]
    befores = [None, *records]
    seen = [(after.at, between(before, after)) for before, after in zip(befores, records, strict=False)]
    strict = replay(STRICT, seen)
    assert strict.failed is not None
    assert 11 <= (strict.failed.verdict.at - BEGAN).seconds <= 14
    assert replay(LENIENT, seen).failed is None
