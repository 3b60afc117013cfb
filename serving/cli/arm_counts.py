"""What became of both arms' requests in releases under way, for `slipway status`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.table import Table

from model_store.errors import SlipwayError
from serving.control.rollout.journal import Journal
from serving.home import Home
from serving.types import Arm, Counts

OUTCOMES = ("answered", "refused", "malformed", "failed")


def counts_by_release(home: Home) -> Iterator[dict[str, Any]]:
    """By release: its phase, and counts by arm since it began. What cannot be read is left out."""
    journal = Journal(home.journal)
    for service in journal.services():
        try:
            active = [state for state in journal.releases(service) if not state.phase.is_final]
            for state in active:
                record = journal.latest_record(state.release_id)
                arms = {Arm.STABLE: record.stable, Arm.CANDIDATE: record.candidate} if record else {}
                counts = {arm.value: _outcomes(each) for arm, each in arms.items()}
                yield {"release_id": state.release_id, "phase": state.phase.value, **counts}
        except (SlipwayError, OSError, ValueError, KeyError, TypeError):
            continue


def table(releases: Iterable[dict[str, Any]]) -> Table:
    """A row for each arm of each release."""
    rows = Table("release", "phase", "arm", *OUTCOMES, box=None, header_style="bold")
    for release in releases:
        for arm in (arm.value for arm in Arm if arm.value in release):
            counts = [f"{release[arm][outcome]:,}" for outcome in OUTCOMES]
            rows.add_row(release["release_id"], release["phase"], arm, *counts)
    return rows


def _outcomes(counts: Counts) -> dict[str, int]:
    found = (counts.answered, counts.refused, counts.malformed, counts.errors)
    return dict(zip(OUTCOMES, found, strict=True))
