"""What a judge accepts: the limits and the chance of being wrong, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

from model_store.errors import Permanent


@dataclass(frozen=True, slots=True)
class AnalysisPolicy:
    """`model_store.release_spec.Analysis` as the judge takes it; every number is a share or a count.

    `alpha` is the chance that a release no worse than stable is ever called FAIL, over all rules and
    all looks. `max_disagreement` None means that answers are not compared. Raises `Permanent` for
    numbers no judge can work with.
    """

    alpha: float
    max_error_rate: float
    error_tolerance: float
    latency_objective_ms: float
    max_slow_share: float
    min_requests: int
    max_disagreement: float | None = None

    def __post_init__(self) -> None:
        disagreement = 0.5 if self.max_disagreement is None else self.max_disagreement
        wrong = [
            f"{name} = {value}, allowed {allowed}"
            for name, value, allowed, fits in (
                ("alpha", self.alpha, "(0, 0.5)", 0 < self.alpha < 0.5),
                ("max_error_rate", self.max_error_rate, "(0, 1)", 0 < self.max_error_rate < 1),
                ("error_tolerance", self.error_tolerance, "[0, 1)", 0 <= self.error_tolerance < 1),
                ("latency_objective_ms", self.latency_objective_ms, "> 0", self.latency_objective_ms > 0),
                ("max_slow_share", self.max_slow_share, "(0, 1)", 0 < self.max_slow_share < 1),
                ("min_requests", self.min_requests, ">= 1", self.min_requests >= 1),
                ("max_disagreement", self.max_disagreement, "(0, 1) or none", 0 < disagreement < 1),
            )
            if not fits
        ]
        if wrong:
            raise Permanent(
                f"no judge can work with {'; '.join(wrong)}", remedy="correct rollout.analysis in the spec"
            )
