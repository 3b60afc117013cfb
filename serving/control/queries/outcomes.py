"""How each release ended and what was measured of it, in the release's row of the ledger.

The evidence is in MLflow too, but a page that lists ten thousand releases can ask neither MLflow nor Airflow
for each, and both forget what is deleted there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from serving.ledger.base import Rows, Unknown
from serving.ledger.changing import change
from serving.ledger.rows import ReleaseRecord

_OUTCOME = "outcome"


@dataclass(frozen=True, slots=True)
class ReleaseOutcome:
    """`status`: promoted, blocked, rolled_back, superseded or dry_run.

    `gated`: digests of the gates' results in the store.
    `evidence_url` and `data_docs_url` lead to MLflow; empty while it has not taken the evidence.
    """

    release_id: str
    status: str
    reason: str
    at: datetime
    bundle_id: str = ""
    gated: tuple[str, ...] = ()
    evidence_url: str = ""
    data_docs_url: str = ""


def save(rows: Rows, outcome: ReleaseOutcome) -> None:
    """Write it, over what an earlier try wrote. Raises `Unknown` where nobody asked for the release."""
    said = {"schema": 1, **asdict(outcome), "at": outcome.at.isoformat()}

    def ended(row: ReleaseRecord) -> ReleaseRecord:
        document = {**row.document, _OUTCOME: said}
        return replace(row, status=outcome.status, ended_at=outcome.at, document=document)

    change(rows, ReleaseRecord, outcome.release_id, ended)


def of(rows: Rows, release_id: str) -> ReleaseOutcome | None:
    """The outcome of a release, None while it has none."""
    try:
        return of_row(rows.get(ReleaseRecord, release_id))
    except Unknown:
        return None


def of_row(row: ReleaseRecord) -> ReleaseOutcome | None:
    """The same, of a row that was read already. Raises ValueError, KeyError or TypeError for what is none."""
    saved: Mapping[str, Any] | None = row.document.get(_OUTCOME)
    if not saved:
        return None
    kept = {name: value for name, value in saved.items() if name != "schema"}
    return ReleaseOutcome(
        **{**kept, "at": datetime.fromisoformat(saved["at"]), "gated": tuple(saved["gated"])}
    )
