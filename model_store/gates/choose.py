"""Which candidate is served. Pure: measured numbers in, one choice and its reason out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from model_store.errors import Permanent
from model_store.types import Check, GateReport, Precision

Prefer = Literal["latency", "size", "order"]

# How many rows are decided otherwise than by the model as it was logged, beside which a candidate stands.
UNLIKE = "decisions unlike the model's as it was logged"

# The way back when nothing else decides: the smallest first.
FALLBACK: tuple[Precision, ...] = ("int8", "fp16", "fp32", "original")


@dataclass(frozen=True, slots=True)
class Contender:
    """A candidate that could be served. `latency_ratio`: its p50 over that of the fp32 model, None if it
    could not run here; `latency_interval`: within what it lies as far as was measured (95 %), None for the
    ratio itself.
    """

    precision: Precision
    digest: str
    report: GateReport
    latency_ratio: float | None
    size_bytes: int
    latency_interval: tuple[float, float] | None = None

    @property
    def speed(self) -> float:
        """The measured ratio; infinite where nothing was measured."""
        return math.inf if self.latency_ratio is None else self.latency_ratio

    def may_be_as_fast_as(self, fastest: Contender) -> bool:
        """Whether what was measured of both leaves it open which is the faster."""
        own, other = (one.latency_interval or (one.speed, one.speed) for one in (self, fastest))
        return own[0] <= other[1]


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
    if {contender.precision for contender in passed} == {"original"}:
        return Choice(passed[0], _alone(contenders, unavailable))
    match prefer:
        case "latency":
            choice = _fastest(passed, order)
        case "size":
            best = min(passed, key=lambda c: (c.size_bytes, FALLBACK.index(c.precision)))
            choice = Choice(best, f"smallest of {len(passed)} that passed: {best.size_bytes / 1e6:.2f} MB")
        case "order":
            choice = _first(passed, order)
    return Choice(choice.contender, choice.reason + _beside_as_logged(choice.contender, contenders))


def _alone(contenders: Sequence[Contender], unavailable: Sequence[str]) -> str:
    """Why the model is served as it was logged, where that is all that can be served."""
    failed = [f"{c.precision}: {shortfalls(c.report)}" for c in contenders if c.precision != "original"]
    others = [*failed, *unavailable]
    return "served as it was logged: " + (others[0] if others else "there is nothing to choose from")


def _beside_as_logged(best: Contender, contenders: Sequence[Contender]) -> str:
    """What the export is worth: how much faster, and whether it decides otherwise."""
    logged = next((one for one in contenders if one.precision == "original"), None)
    if logged is None or logged is best or not (math.isfinite(logged.speed) and best.latency_ratio):
        return ""
    times = logged.speed / best.speed
    said = f"; {times:,.0f}" if times >= 10 else f"; {times:.2g}"
    said += " times the speed of the model as it was logged"
    unlike = next((one for one in best.report.checks if one.name == UNLIKE), None)
    if unlike is None:
        return said
    return f"{said}, {unlike.observed:.2%} other decisions" if unlike.observed else f"{said}, same decisions"


def _first(passed: Sequence[Contender], order: Sequence[Precision], why: str = "") -> Choice:
    best = min(passed, key=lambda contender: order.index(contender.precision))
    return Choice(best, f"{why}first of {', '.join(order)} that passed")


def _fastest(passed: Sequence[Contender], order: Sequence[Precision]) -> Choice:
    """The lowest ratio; of those that measuring cannot tell from it, the smaller file, then in order of the
    fallback. Where nothing was measured, in the order of the spec.
    """
    measured = [contender for contender in passed if contender.latency_ratio is not None]
    if not measured:
        return _first(passed, order, "latency was not measured, for no engine was run here: ")
    fastest = min(measured, key=lambda contender: contender.speed)
    tied = [contender for contender in measured if contender.may_be_as_fast_as(fastest)]
    best = min(tied, key=lambda contender: (contender.size_bytes, FALLBACK.index(contender.precision)))
    others = [f"{other.precision}'s {other.speed:.3g}" for other in tied if other is not best]
    if not others:
        return Choice(best, f"fastest of {len(passed)} that passed: p50 is {best.speed:.3g} of fp32's")
    return Choice(
        best,
        f"p50 is {best.speed:.3g} of fp32's, which measuring cannot tell from {' and '.join(others)};"
        f" of these the smallest file, {best.size_bytes / 1e6:.2f} MB; {len(passed)} passed",
    )


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
