"""What the controller saw of a release, one line a second at most: the evidence behind every verdict.

A line holds cumulative counts since the release started, so the difference of two lines is what happened
between them; a judge fed those differences again comes to the same belief
(`serving.control.rollout.observe`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any, NamedTuple

from serving.control.rollout.plan import Phase
from serving.metrics.latency import Buckets
from serving.types import Counts, Endpoint, Finding, Outcome, Verdict


class EndpointCounts(NamedTuple):
    """Up to where one endpoint's counters were counted; None: by a controller that did not know them."""

    requests: int
    errors: int
    slow: int
    refused: int | None = None
    malformed: int | None = None
    repeated: int | None = None
    uninformative: int | None = None


Raw = dict[Endpoint, EndpointCounts]

# How far apart lines may be, by `RolloutState.pace`.
RECORD_EVERY_SECONDS = {Phase.PROGRESSING: 1.0, Phase.WATCHING: 10.0}

# Grows only when an older reader would take a line for something it is not. What is merely added is left out
# by older readers, and has a default for newer ones, so that an upgrade under a running stack converges.
FORMAT = 1


class NewerFormat(ValueError):  # noqa: N818 - it names what was found
    """The line was written by a newer Slipway, in a format this one does not know."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line. `place` is the state's, `step_seconds` the time observed in it.

    `share` is the candidate's part (0-1) of the weight in force, `settled` whether it has been so for as
    long as a request may take. `stable` and `candidate` are since the start; `raw` are the proxy's own
    counters per endpoint, from which a controller that was restarted goes on. `monotonic` is the
    machine's uptime clock. `answers` are
    (compared, disagreed) since the start (`serving.control.shadow`); `least_share` the smallest share of the
    looks since the line before. `latency` is of (stable, candidate) since the start, None where no more was
    known than before.
    """

    at: datetime
    monotonic: float
    place: int
    share: float
    settled: bool
    retries_on_stable: bool
    step_seconds: float
    stable: Counts
    candidate: Counts
    raw: Raw
    verdict: Verdict
    answers: tuple[int, int] = (0, 0)
    least_share: float | None = None
    latency: tuple[Buckets, Buckets] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format": FORMAT,
            "at": self.at.isoformat(),
            "monotonic": self.monotonic,
            "place": self.place,
            "share": self.share,
            "settled": self.settled,
            "retries_on_stable": self.retries_on_stable,
            "step_seconds": self.step_seconds,
            "stable": _counts(self.stable),
            "candidate": _counts(self.candidate),
            "answers": list(self.answers),
            "least_share": self.least_share,
            **({"latency": _latency(self.latency)} if self.latency else {}),
            "rejected": {"stable": _rejected(self.stable), "candidate": _rejected(self.candidate)},
            "raw": {str(endpoint): list(stand[:3]) for endpoint, stand in self.raw.items()},
            "raw_rejected": {str(endpoint): list(stand[3:]) for endpoint, stand in self.raw.items()},
            "verdict": {
                "outcome": self.verdict.outcome.name,
                "at": self.verdict.at.isoformat(),
                "findings": [finding_to_json(finding) for finding in self.verdict.findings],
            },
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Record:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError for what is no such record.

        Those without a format are of the first one. Raises `NewerFormat` for those of a later Slipway.
        """
        if saved.get("format", 1) > FORMAT:
            raise NewerFormat(f"format {saved['format']}, and this Slipway knows formats up to {FORMAT}")
        # In places of their own: an older reader takes only lines whose counts are as many as it knows.
        rejected, raw_rejected = saved.get("rejected", {}), saved.get("raw_rejected", {})
        return cls(
            at=datetime.fromisoformat(saved["at"]),
            monotonic=saved["monotonic"],
            place=saved["place"],
            share=saved["share"],
            settled=saved["settled"],
            retries_on_stable=saved["retries_on_stable"],
            step_seconds=saved["step_seconds"],
            stable=Counts(*saved["stable"], *rejected.get("stable", ())),
            candidate=Counts(*saved["candidate"], *rejected.get("candidate", ())),
            answers=tuple(saved.get("answers", (0, 0))),
            least_share=saved.get("least_share"),
            latency=_latency_of(saved["latency"]) if "latency" in saved else None,
            raw={
                _endpoint(name): EndpointCounts(*values, *raw_rejected.get(name, ()))
                for name, values in saved["raw"].items()
            },
            verdict=Verdict(
                Outcome[saved["verdict"]["outcome"]],
                tuple(finding_from_json(finding) for finding in saved["verdict"]["findings"]),
                datetime.fromisoformat(saved["verdict"]["at"]),
            ),
        )


def finding_to_json(finding: Finding) -> dict[str, Any]:
    """Plain JSON values."""
    return {
        "rule": finding.rule,
        "outcome": finding.outcome.name,
        "reason": finding.reason,
        # In their order, which the ledger's JSON does not keep of names. It has no infinity either.
        "numbers": [[name, value if isfinite(value) else None] for name, value in finding.numbers],
        "source": finding.source,
    }


def finding_from_json(saved: dict[str, Any]) -> Finding:
    """The inverse of `finding_to_json`."""
    numbers = saved["numbers"]
    # As names with values before there was a ledger.
    pairs = numbers.items() if isinstance(numbers, Mapping) else numbers
    return Finding(
        saved["rule"],
        Outcome[saved["outcome"]],
        saved["reason"],
        tuple((name, value) for name, value in pairs),
        saved["source"],
    )


def _counts(counts: Counts) -> list[float]:
    return [counts.requests, counts.errors, counts.slow, counts.window_seconds]


def _rejected(counts: Counts) -> list[int]:
    return [counts.refused, counts.malformed, counts.uninformative]


def _latency(arms: tuple[Buckets, Buckets]) -> dict[str, dict[str, int]]:
    named = zip(("stable", "candidate"), arms, strict=True)
    return {arm: {str(number): count for number, count in sorted(each.items())} for arm, each in named}


def _latency_of(saved: dict[str, dict[str, int]]) -> tuple[Buckets, Buckets]:
    stable, candidate = (
        {int(number): count for number, count in saved[arm].items()} for arm in ("stable", "candidate")
    )
    return stable, candidate


def _endpoint(name: str) -> Endpoint:
    host, _, port = name.rpartition(":")
    return Endpoint(host, int(port))
