"""The demo's story as it should go, in plain values, for tests to break one thing of."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from demo.facts import Exposure, Happening, Measured, Release, Rollback, Variant
from demo.traffic_log import Entry, TrafficLog

RATE = 100.0
BEGAN = 1_790_000_000.0
START = datetime.fromtimestamp(BEGAN + 30, UTC)


def check(name: str, *, reference: float, value: float, lower: float, limit: float = -0.02) -> Measured:
    detail = f"{reference:.4f} -> {value:.4f}"
    return Measured(name, lower, limit, lower >= limit, detail, reference=reference, value=value)


def variant(precision: str, ratio: float, *, champion: float | None = None) -> Variant:
    """`champion`: the lower bound of the comparison with it."""
    checks = [
        check("accuracy non-inferiority", reference=0.81, value=0.811, lower=-0.001),
        check("auc non-inferiority", reference=0.84, value=0.841, lower=-0.001),
    ]
    if champion is not None:
        checks.append(
            check(
                "accuracy against champion v2 non-inferiority",
                reference=0.81,
                value=0.81 + champion,
                lower=champion,
            )
        )
    return Variant(precision, "onnxruntime", checks, 0.02, 0.02 * ratio, ratio)


def release(version: int, ending: str, *variants: Variant, chosen: str | None = "fp32") -> Release:
    return Release(
        version=version,
        story=f"story {version}",
        asked_by="./slipway release",
        release_id=f"credit_risk-v{version}-20261121T200000Z",
        ending=ending,
        reason="because",
        seconds=40.0,
        trained_accuracy=0.81,
        variants=variants,
        chosen=chosen,
        bundle="0" * 24 if chosen else None,
        step_seconds={"export": 3.0, "gate": 2.5},
        happenings=(),
        exposure=Exposure(1000, 0) if chosen else None,
        rollback=None,
    )


def happening(seconds: float, kind: str) -> Happening:
    return Happening(START + timedelta(seconds=seconds), kind, f"{kind} it was")


def releases() -> list[Release]:
    """v1 and v2 promoted, v3 blocked, v4 rolled back 2 s after its first error."""
    zero = START.timestamp() + 4
    bad = replace(
        release(4, "rolled_back", variant("fp32", 1.0, champion=0.001)),
        exposure=Exposure(requests=40, errors=8),
        happenings=(happening(0, "started"), happening(4, "rolled back")),
        rollback=Rollback(first_error_after=zero - 2, weight_zero_at=zero, last_answer_at=zero - 0.1),
    )
    return [
        release(1, "promoted", variant("int8", 1.3), variant("fp32", 1.0)),
        release(2, "promoted", variant("int8", 1.3, champion=0.01), variant("fp32", 0.99, champion=0.01)),
        release(3, "blocked", variant("fp32", 1.0, champion=-0.09), chosen=None),
        bad,
    ]


def log() -> TrafficLog:
    """60 s at 100 requests a second; v4 answered 32 of them before its weight was 0."""
    zero = START.timestamp() + 4
    entries = []
    for number in range(6000):
        at = BEGAN + number / RATE
        version = 4 if zero - 3.2 <= at < zero and number % 10 == 0 else (1 if number < 2000 else 2)
        entries.append(Entry(at, 2.0, "ok", version, correct=number % 5 > 0))
    return TrafficLog(tuple(entries), len(entries))
