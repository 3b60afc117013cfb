"""What became of both arms' requests in releases under way, for `slipway status`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from rich.table import Table

from model_store.errors import SlipwayError
from serving import composition
from serving.home import Home
from serving.types import Arm, Counts

OUTCOMES = ("answered", "refused", "malformed", "failed")


def counts_by_release(home: Home) -> Iterator[dict[str, Any]]:
    """By release: its phase, and counts by arm since it began. What cannot be read is left out, and all of
    it while the controller does not answer."""
    journal = composition.journal_of(home)
    with suppress(SlipwayError):
        for state in journal.active():
            record = journal.latest_record(state.release_id)
            arms = {Arm.STABLE: record.stable, Arm.CANDIDATE: record.candidate} if record else {}
            counts = {arm.value: _outcomes(each) for arm, each in arms.items()}
            yield {"release_id": state.release_id, "phase": state.phase.value, **counts}


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
