"""Which versions were tried, so that nothing starts a second release of one by itself.

`<home>/releases/<model>/tried/v<n>.json` names the one DAG run that may release the version without being
asked by a person; of several runs that find the version at once exactly one writes it. `asked/v<n>` beside it
is the moment at which Airflow was last told of the version, while that run has not begun yet.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

from model_store.durable import canonical_json
from model_store.types import ModelRef
from serving.control.releases import write_new_file

# A run that was asked for begins within seconds. Later, the asking was lost.
START_TIMEOUT = timedelta(minutes=2)


class ReleaseAttempts:
    """The files under `root`, the folder of the releases. Many processes may use them at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def claim(self, ref: ModelRef, run_id: str, *, at: datetime) -> str:
        """Make this run the one that tries the version, unless there is one. Returns which run it is."""
        write_new_file(self._tried(ref), canonical_json({"run_id": run_id, "at": at.isoformat()}))
        return self.of(ref) or run_id

    def of(self, ref: ModelRef) -> str | None:
        """The run that tried the version, None while nobody did."""
        try:
            return str(json.loads(self._tried(ref).read_bytes())["run_id"])
        except FileNotFoundError:
            return None

    def withdraw(self, ref: ModelRef, run_id: str) -> None:
        """The run did not get to begin, so the version may be tried by another one."""
        if self.of(ref) == run_id:
            self._tried(ref).rename(self._next_withdrawn(ref))

    def miss(self, ref: ModelRef, run_id: str) -> None:
        """As `withdraw`, also if the run did not even get to claim the version, nor anybody else."""
        if self.of(ref) is not None:
            self.withdraw(ref, run_id)
        else:
            write_new_file(self._next_withdrawn(ref), canonical_json({"run_id": run_id}))

    def withdrawn(self, ref: ModelRef) -> int:
        """How often a run did not get to begin."""
        return len(list(self._tried(ref).parent.glob(f"v{ref.version}.withdrawn-*")))

    def ask(self, ref: ModelRef, *, at: datetime) -> bool:
        """Whether to ask Airflow for this version now: nobody tried it, nor asked a moment ago."""
        if self.of(ref) is not None or self.was_requested(ref, at=at):
            return False
        path = self._asked(ref)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            # Since the look above somebody else asked, or it is the mark of an asking that was lost.
            if self.was_requested(ref, at=at):
                return False
        os.utime(path, (at.timestamp(), at.timestamp()))
        return True

    def was_requested(self, ref: ModelRef, *, at: datetime) -> bool:
        """Whether Airflow was told of this version a moment ago."""
        try:
            asked = self._asked(ref).stat().st_mtime
        except FileNotFoundError:
            return False
        return abs(at.timestamp() - asked) < START_TIMEOUT.total_seconds()

    def _tried(self, ref: ModelRef) -> Path:
        return self.root / ref.name / "tried" / f"v{ref.version}.json"

    def _next_withdrawn(self, ref: ModelRef) -> Path:
        return self._tried(ref).with_suffix(f".withdrawn-{self.withdrawn(ref) + 1}")

    def _asked(self, ref: ModelRef) -> Path:
        return self.root / ref.name / "asked" / f"v{ref.version}"
