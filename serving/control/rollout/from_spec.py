"""From what the user wrote to what a rollout and a route need."""

from __future__ import annotations

from model_store.release_spec import Analysis, ReleaseSpec, Rollout
from model_store.release_spec.in_traffic import TokenBucket
from serving.control.analysis import AnalysisPolicy
from serving.control.rollout.plan import RolloutPlan, RolloutStep
from serving.types import ALL_STABLE, RateLimit, RouteSettings, TrafficSplit

_ALL_CANDIDATE = TrafficSplit(stable=0, candidate=100)


def plan_of(rollout: Rollout) -> RolloutPlan:
    """The plan of the spec's `rollout` section."""
    return RolloutPlan(
        strategy=rollout.strategy,
        steps=_steps(rollout),
        max_step_seconds=rollout.max_step_seconds,
        watch_seconds=rollout.watch_seconds,
        policy=policy_of(rollout.analysis),
    )


def first_plan_of(plan: RolloutPlan) -> RolloutPlan:
    """The plan where no version stands yet: nobody to share with, so all traffic at once, judged alone. It
    is held only while somebody calls.
    """
    hold = plan.steps[-1].hold_seconds
    return RolloutPlan(
        strategy=plan.strategy,
        steps=(RolloutStep(_ALL_CANDIDATE, hold),),
        max_step_seconds=plan.max_step_seconds,
        watch_seconds=plan.watch_seconds,
        policy=plan.policy,
    )


def policy_of(analysis: Analysis) -> AnalysisPolicy:
    """The judge's limits."""
    return AnalysisPolicy(**analysis.model_dump())


def settings_of(spec: ReleaseSpec) -> RouteSettings:
    """How the gateway treats the model's requests."""
    serving = spec.serving
    return RouteSettings(
        timeout_ms=serving.timeout_ms,
        idempotent=serving.idempotent,
        latency_objective_ms=spec.rollout.analysis.latency_objective_ms,
        rate_limit=_limit_of(serving.rate_limit),
        client_rate_limit=_limit_of(serving.client_rate_limit),
        api_keys=serving.api_keys,
    )


def _limit_of(limit: TokenBucket | None) -> RateLimit | None:
    return RateLimit(limit.per_second, limit.burst) if limit else None


def _steps(rollout: Rollout) -> tuple[RolloutStep, ...]:
    if rollout.strategy == "blue_green":
        return (
            RolloutStep(ALL_STABLE, rollout.preview_seconds),
            RolloutStep(_ALL_CANDIDATE, 0),
        )
    return tuple(
        RolloutStep(TrafficSplit(stable=100 - step.weight, candidate=step.weight), step.hold_seconds)
        for step in rollout.steps
    )
