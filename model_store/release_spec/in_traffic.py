"""The sections on pods, rollout and approval: how a version meets traffic."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from model_store.extensions import PLATFORMS
from model_store.release_spec.freeze import STORED
from model_store.release_spec.kubernetes import Kubernetes
from model_store.release_spec.section import Found, Seconds, Section, repeated
from model_store.types import TargetName


class Cache(Section):
    """Answers kept by the pods. `shared`: also in the Redis the pods are told of, for all replicas."""

    max_mb: Annotated[float, Field(gt=0, le=65_536)] = 64
    ttl_seconds: Annotated[float, Field(gt=0)] = 3600
    shared: bool = False


class RequestLog(Section):
    """What share of requests the pods write down, for warmup and shadow comparison, and for how long."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.01
    max_mb: Annotated[float, Field(gt=0)] = 256
    keep_days: Annotated[float, Field(gt=0)] = 7


class TokenBucket(Section):
    """A token bucket at the gateway: `per_second` requests flow in, `burst` at once."""

    per_second: Annotated[float, Field(gt=0, le=1_000_000)]
    burst: Annotated[int, Field(ge=1, le=10_000_000)]


class Fallback(Section):
    """What the pod answers when the model cannot: an old answer, one constant row, or another model's."""

    stale: Literal[True] | None = None
    constant: dict[str, float | int | str | tuple[float | int | str, ...]] | None = None
    model: str | None = None

    def contradictions(self) -> list[Found]:
        named = [name for name in ("stale", "constant", "model") if getattr(self, name) is not None]
        return [] if len(named) == 1 else [((), f"name exactly one of stale, constant, model; found {named}")]


class Serving(Section):
    """How pods run the chosen candidate.

    `target`: the platform, by a name that `model_store.extensions.PLATFORMS` knows.
    `max_rows`: of one request; never more than the model computes in time, as each pod measures it.
    `max_memory_mb`: of the process of a model that is served as it is; with more it is started anew.
    `stochastic`: equal inputs may have different answers, so nothing is cached or shared.
    `finite_inputs` and `finite_outputs`: NaN and infinity are refused, and are the model's failure.
    """

    target: str = "local"
    runtime: TargetName = "onnxruntime"
    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    max_queue_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 2
    timeout_ms: Annotated[int, Field(ge=10, le=600_000)] = 1000
    idempotent: bool = True
    ready_timeout_seconds: Annotated[float, Field(gt=0)] = 60
    max_queue_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 2048
    max_rows: Annotated[int, Field(ge=1)] | None = None
    stochastic: bool = False
    max_memory_mb: Annotated[float, Field(ge=64)] | None = None
    finite_inputs: bool = True
    finite_outputs: bool = True
    cache: Cache | None = None
    request_log: RequestLog | None = None
    fallback: Fallback | None = None
    rate_limit: TokenBucket | None = None
    client_rate_limit: TokenBucket | None = None
    api_keys: bool = False
    kubernetes: Kubernetes | None = None

    @field_validator("target")
    @classmethod
    def _platform_is_there(cls, target: str, about: ValidationInfo) -> str:
        """Of a spec that was kept, it may have been uninstalled since: that is no reason not to read it."""
        why = None if about.context == STORED else PLATFORMS.missing(target)
        if why is not None:
            raise ValueError(why)
        return target

    def contradictions(self) -> list[Found]:
        found: list[Found] = []
        if self.max_queue_delay_ms >= self.timeout_ms:
            late = f"not below timeout_ms {self.timeout_ms}: requests expire queued"
            found.append((("max_queue_delay_ms",), late))
        if self.kubernetes and self.target == "local":
            found.append((("kubernetes",), "the pods run on `local`: set `target: kubernetes`"))
        scaling = self.kubernetes and self.kubernetes.autoscaling
        if scaling and scaling.max_replicas < self.replicas:
            at = ("kubernetes", "autoscaling", "max_replicas")
            found.append((at, f"below replicas {self.replicas}, with which it begins"))
        return found


class Step(Section):
    """Give the candidate `weight` percent for at least `hold_seconds`."""

    weight: Annotated[float, Field(gt=0, le=100)]
    hold_seconds: Seconds


class Analysis(Section):
    """What the judge accepts of a candidate (see docs/verdicts.md).

    `alpha`: chance that a healthy release is ever rolled back. `error_tolerance`: how much higher than
    stable's the candidate's error rate may be. `max_error_rate`: never above this, whatever stable does.
    `min_requests`: a step passes only after the candidate answered this many in it.
    `max_disagreement`: share of recorded requests that both arms may answer differently; none: not compared.
    """

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    max_error_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    error_tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.005
    latency_objective_ms: Annotated[float, Field(gt=0)] = 500
    max_slow_share: Annotated[float, Field(gt=0, lt=1)] = 0.01
    min_requests: Annotated[int, Field(ge=1)] = 50
    max_disagreement: Annotated[float, Field(gt=0, lt=1)] | None = None


class Rollout(Section):
    """Canary: the steps in order, the last at 100. Blue-green: `preview_seconds`, then one switch.

    `cooldown_seconds`: after a rollback, for so long nothing is released or rolled back by itself.
    """

    strategy: Literal["canary", "blue_green"] = "canary"
    steps: tuple[Step, ...] = ()
    preview_seconds: Seconds = 60
    max_step_seconds: Annotated[float, Field(gt=0)] = 3600
    watch_seconds: Seconds = 3600
    cooldown_seconds: Seconds = 600
    analysis: Analysis = Analysis()

    def contradictions(self) -> list[Found]:
        return self._wrong_weights() + self._wrong_holds()

    def _wrong_weights(self) -> list[Found]:
        weights = [step.weight for step in self.steps]
        if self.strategy == "blue_green":
            wrong = "blue_green has one switch: leave out `steps`, set `preview_seconds`"
            return [(("steps",), wrong)] if weights else []
        if not weights:
            return [(("steps",), "a canary needs steps, the last with weight 100")]
        found: list[Found] = [
            (("steps", place, "weight"), f"weights must rise, and {after:g} follows {before:g}")
            for place, (before, after) in enumerate(pairwise(weights), start=1)
            if after <= before
        ]
        if weights[-1] != 100:
            last = ("steps", len(weights) - 1, "weight")
            found.append((last, f"the last step must have weight 100, got {weights[-1]:g}"))
        return found

    def _wrong_holds(self) -> list[Found]:
        return [
            (("steps", place, "hold_seconds"), f"longer than max_step_seconds {self.max_step_seconds:g}")
            for place, step in enumerate(self.steps)
            if step.hold_seconds > self.max_step_seconds
        ]


class Approval(Section):
    """Who may let a release onto traffic. Left out, nobody needs to."""

    approvers: tuple[str, ...] = Field(min_length=1)
    required: Annotated[int, Field(ge=1)] = 1
    timeout_seconds: Annotated[float, Field(gt=0)] = 86_400

    def contradictions(self) -> list[Found]:
        found = repeated("approvers", self.approvers)
        if self.required > len(set(self.approvers)):
            found.append((("required",), f"more than the {len(self.approvers)} approvers"))
        return found
