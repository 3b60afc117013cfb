"""What is known of a release when it is over. Plain values: `evidence` reads them, `claims` checks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

# Of the checks whose names these begin with, the report shows both figures.
ACCURACY = "accuracy non-inferiority"
AUC = "auc non-inferiority"
CHAMPION = "accuracy against champion"


@dataclass(frozen=True, slots=True)
class Measured:
    """A check of the gates: `observed` against `limit`; `reference` and `value` are the figures before and
    after, where it compares two."""

    name: str
    observed: float
    limit: float
    passed: bool
    detail: str
    reference: float | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """One precision as the gates saw it. Latencies: p50 of one row in ms, None if it is not for this runtime.

    `before_ms` is the fp32 ONNX model's in the same seconds, `ratio` the variant's over it, which lies within
    `interval` as far as was measured.
    """

    precision: str
    layout: str
    checks: Sequence[Measured]
    before_ms: float | None
    after_ms: float | None
    ratio: float | None
    interval: tuple[float, float] | None = None

    @property
    def is_servable(self) -> bool:
        return self.after_ms is not None

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def check(self, beginning: str) -> Measured | None:
        """The first check whose name begins so."""
        return next((check for check in self.checks if check.name.startswith(beginning)), None)

    @property
    def missed(self) -> tuple[Measured, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if not check.passed)


@dataclass(frozen=True, slots=True)
class Exposure:
    """What the controller counted on the candidate: attempts that reached it, and which of them failed."""

    requests: int
    errors: int


@dataclass(frozen=True, slots=True)
class Happening:
    """An event of the journal."""

    at: datetime
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Rollback:
    """How a version was taken out. `first_error_after` is when the controller had last counted none.

    `weight_zero_at` is when the route said 0; `last_answer_at` the last well answered request of the version
    as clients saw it. All in seconds since 1970; None where there is none.
    """

    first_error_after: float | None
    weight_zero_at: float
    last_answer_at: float | None

    @property
    def seconds(self) -> float | None:
        """From the first failed answer to the last moment it had traffic: an upper bound."""
        if self.first_error_after is None:
            return None
        return max(self.weight_zero_at, self.last_answer_at or 0.0) - self.first_error_after


@dataclass(frozen=True, slots=True)
class Release:
    """One version's release. `ending` and `reason` are the tags on the version in MLflow.

    `chosen` and `bundle` are None if none was published. `step_seconds`: wall time by task name. `exposure`
    and `rollback` are None for a version that got no traffic, or was not taken out.
    """

    version: int
    story: str
    asked_by: str
    release_id: str
    ending: str
    reason: str
    seconds: float
    trained_accuracy: float
    variants: tuple[Variant, ...]
    chosen: str | None
    bundle: str | None
    step_seconds: Mapping[str, float]
    happenings: tuple[Happening, ...]
    exposure: Exposure | None
    rollback: Rollback | None

    @property
    def served(self) -> Variant | None:
        """The variant of the published bundle."""
        servable = (variant for variant in self.variants if variant.is_servable)
        return next((variant for variant in servable if variant.precision == self.chosen), None)
