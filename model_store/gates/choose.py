"""Which candidate is served. Pure: measured numbers in, one choice and its reason out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from model_store.errors import Permanent
from model_store.types import Check, GateReport, Precision

Prefer = Literal["latency", "size", "order"]

# Latency ratios this close are equally fast: repeated measurements differ by as much.
TIE_BAND = 0.05

# The way back when nothing else decides: the smallest first.
FALLBACK: tuple[Precision, ...] = ("int8", "fp16", "fp32")


@dataclass(frozen=True, slots=True)
class Contender:
    """A candidate that could be served. `latency_ratio`: its p50 over that of the fp32 model, None if it
    could not run here.
    """

    precision: Precision
    digest: str
    report: GateReport
    latency_ratio: float | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What is served, and why in words."""

    contender: Contender
    reason: str


class NothingPassed(Permanent):
    """No candidate kept every limit; says for each which limits and by how much."""

    def __init__(self, contenders: Sequence[Contender], unavailable: Sequence[str] = ()) -> None:
        failures = [f"{c.precision}: {shortfalls(c.report)}" for c in contenders]
        lines = [*failures, *unavailable] or ["there is no candidate"]
        super().__init__(
            "no candidate kept every limit:\n" + "\n".join(f"  {line}" for line in lines),
            remedy="look at the gate report; improve the model, or change the limits in the release spec",
        )


def choose(
    contenders: Sequence[Contender],
    *,
    prefer: Prefer,
    order: Sequence[Precision],
    unavailable: Sequence[str] = (),
) -> Choice:
    """The best contender whose report passed. `order`: the precisions as the spec lists them; `unavailable`:
    a sentence for each candidate that does not exist. Raises `Permanent` (NothingPassed).
    """
    passed = [contender for contender in contenders if contender.report.passed]
    if not passed:
        raise NothingPassed(contenders, unavailable)
    match prefer:
        case "latency":
            return _fastest(passed)
        case "size":
            best = min(passed, key=lambda c: (c.size_bytes, FALLBACK.index(c.precision)))
            return Choice(best, f"smallest of {len(passed)} that passed: {best.size_bytes / 1e6:.2f} MB")
        case "order":
            best = min(passed, key=lambda c: order.index(c.precision))
            return Choice(best, f"first of {', '.join(order)} that passed")


def _fastest(passed: Sequence[Contender]) -> Choice:
    """Among the equally fast, the smaller; among the equally small, in order of the fallback."""
    measured = [
        (contender.latency_ratio, contender) for contender in passed if contender.latency_ratio is not None
    ]
    if not measured:
        raise Permanent(
            "the fastest is asked for, and no candidate could run on this machine",
            remedy="set `prefer: size` or `prefer: order` in the spec, or build where the runtime works",
        )
    lowest = min(ratio for ratio, _ in measured)
    tied = [(ratio, contender) for ratio, contender in measured if ratio <= lowest * (1 + TIE_BAND)]
    ratio, best = min(tied, key=lambda pair: (pair[1].size_bytes, FALLBACK.index(pair[1].precision)))
    equal = f", the smallest of {len(tied)} equally fast" if len(tied) > 1 else ""
    return Choice(best, f"p50 is {ratio:.2f} of fp32's{equal}; {len(passed)} passed")


def shortfalls(report: GateReport) -> str:
    """The failed checks and by how much each missed its limit."""
    if not report.checks:
        return "nothing was checked"
    failed = [check for check in report.checks if not check.passed]
    return "; ".join(_shortfall(check) for check in failed) or "passed"


def _shortfall(check: Check) -> str:
    missed = abs(check.observed - check.limit)
    numbers = f"{check.observed:.4g}, limit {check.limit:.4g}, missed by {missed:.4g}"
    return f"{check.name} {numbers}" + (f" ({check.detail})" if check.detail else "")
