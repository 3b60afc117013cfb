"""How each release ended and what was measured of it, kept beside its request.

`<home>/releases/<model>/outcomes/<id>.json`. The evidence is in MLflow too, but a page that lists ten
thousand releases can ask neither MLflow nor Airflow for each, and both forget what is deleted there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import orjson

from model_store.durable import write_file

FOLDER = "outcomes"


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


def path_of(root: Path, model: str, release_id: str) -> Path:
    """Where the outcome of a release is. `root`: Home.releases."""
    return root / model / FOLDER / f"{release_id}.json"


def save(root: Path, model: str, outcome: ReleaseOutcome) -> None:
    """Write it, over what an earlier try wrote."""
    content = orjson.dumps({"schema": 1, **asdict(outcome)}, option=orjson.OPT_INDENT_2)
    write_file(path_of(root, model, outcome.release_id), content)


def of(root: Path, model: str, release_id: str) -> ReleaseOutcome | None:
    """The outcome of a release, None while it has none."""
    try:
        return parse(path_of(root, model, release_id).read_bytes())
    except FileNotFoundError:
        return None


def parse(content: bytes) -> ReleaseOutcome:
    """What `keep` wrote. Raises ValueError, KeyError or TypeError for anything else."""
    saved = orjson.loads(content)
    del saved["schema"]
    gated: Sequence[str] = saved["gated"]
    return ReleaseOutcome(**{**saved, "at": datetime.fromisoformat(saved["at"]), "gated": tuple(gated)})
