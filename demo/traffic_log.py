"""The traffic log: one line a request, read while it grows and again for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from model_store.errors import Permanent

HEADER = "sent_at,latency_ms,outcome,version,correct\n"
OK = "ok"


@dataclass(frozen=True, slots=True)
class Entry:
    """What came of one request.

    `sent_at` seconds since 1970, `outcome` "ok" or the kind of failure, `version` the one that answered (0:
    no answer said so), `correct` whether the answered label was the row's own.
    """

    sent_at: float
    latency_ms: float
    outcome: str
    version: int
    correct: bool

    def line(self) -> str:
        """As the log has it."""
        return f"{self.sent_at:.4f},{self.latency_ms:.3f},{self.outcome},{self.version},{int(self.correct)}\n"

    @classmethod
    def of(cls, line: str) -> Entry:
        """From a line of the log."""
        sent_at, latency_ms, outcome, version, correct = line.split(",")
        return cls(float(sent_at), float(latency_ms), outcome, int(version), bool(int(correct)))

    @property
    def answered_at(self) -> float:
        """Seconds since 1970."""
        return self.sent_at + self.latency_ms / 1000

    @property
    def failed(self) -> bool:
        return self.outcome != OK


@dataclass(slots=True)
class Tally:
    """Running totals of a log that still grows. `failures` counts by kind, `answers` by version."""

    path: Path
    total: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    recent: list[Entry] = field(default_factory=list)
    _offset: int = 0

    @property
    def failed(self) -> int:
        return self.failures.total()

    def update(self, *, recent_seconds: float = 2.0) -> Tally:
        """Take in the lines written since the last call; `recent` keeps the last seconds' entries."""
        new = [Entry.of(line) for line in self._new_lines() if _is_entry(line)]
        self.total += len(new)
        self.failures.update(entry.outcome for entry in new if entry.failed)
        self.answers.update(entry.version for entry in new if not entry.failed)
        kept = self.recent + new
        latest = max((entry.answered_at for entry in kept), default=0.0)
        self.recent = [entry for entry in kept if entry.answered_at > latest - recent_seconds]
        return self

    def _new_lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as log:
            log.seek(self._offset)
            whole, newline, _ = log.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return whole.decode().splitlines()


@dataclass(frozen=True, slots=True)
class TrafficLog:
    """A finished log: every entry in the order of sending, and how many requests the sender says it sent."""

    entries: tuple[Entry, ...]
    sent: int

    @classmethod
    def read(cls, path: Path) -> TrafficLog:
        """Raises `Permanent` when the sender did not come to its end: some requests are unaccounted for."""
        lines = path.read_text().splitlines()
        last = lines[-1] if lines else ""
        if not last.startswith("# sent "):
            raise Permanent(
                f"{path} has no last line saying how many requests were sent",
                remedy="the traffic process was killed: run the demo again",
            )
        entries = sorted(map(Entry.of, filter(_is_entry, lines)), key=lambda entry: entry.sent_at)
        return cls(tuple(entries), int(last.removeprefix("# sent ")))

    @property
    def failed(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.failed)

    def answered_by(self, version: int) -> tuple[Entry, ...]:
        """The entries this version answered well."""
        return tuple(entry for entry in self.entries if entry.version == version and not entry.failed)

    def seconds(self) -> float:
        """From the first to the last sending."""
        return self.entries[-1].sent_at - self.entries[0].sent_at if self.entries else 0.0

    def longest_pause_seconds(self) -> float:
        """The longest time between two sendings: a sender that stood still proves nothing."""
        times = [entry.sent_at for entry in self.entries]
        return max((later - sooner for sooner, later in pairwise(times)), default=0.0)


def percentile(values: Iterable[float], share: float) -> float:
    """Nearest-rank percentile (share in 0..1). Raises `ValueError` of no values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _is_entry(line: str) -> bool:
    return not line.startswith(("#", "sent_at"))


def failures_by_kind(entries: Iterable[Entry]) -> dict[str, int]:
    """How many failed, by outcome, most frequent first."""
    return dict(Counter(entry.outcome for entry in entries if entry.failed).most_common())
