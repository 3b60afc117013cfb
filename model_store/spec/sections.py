"""What a release spec may say: pydantic sections, nothing else allowed, nothing changed after reading."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from model_store.spec.contradictions import Contradictions, Found, repeated
from model_store.spec.schedule import refuse_bad_schedule
from model_store.types import Precision, TargetName

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
ALIAS = re.compile(r"[A-Za-z0-9_-]{1,64}")

Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """Base of every section: unknown fields are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def contradictions(self) -> list[Found]:
        """Fields of this section that are fine alone and impossible together."""
        return []

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Section:
        if found := self.contradictions():
            raise Contradictions(found)
        return self


class Source(Section):
    """Where the model comes from. Any flavour but ONNX is converted by executing the model's own code."""

    flavor: Literal["onnx", "sklearn"]
    trusted: bool = False
    skops_trusted_types: tuple[str, ...] = ()
    alias: str = "candidate"
    max_size_mb: Annotated[float, Field(gt=0)] = 2048

    @field_validator("alias")
    @classmethod
    def _alias_is_ours_to_read(cls, alias: str) -> str:
        if alias == "champion":
            raise ValueError("`champion` is the alias a release moves; name the one your training sets")
        if not ALIAS.fullmatch(alias) or alias == "latest" or re.fullmatch(r"v\d+", alias):
            raise ValueError("MLflow takes 1-64 letters, digits, '_' and '-', not `latest` and not `v1`")
        return alias


class Column(Section):
    """What Great Expectations checks of one column."""

    min: float | None = None
    max: float | None = None
    values: tuple[str, ...] | None = None
    nullable: bool = False

    def contradictions(self) -> list[Found]:
        if self.values is not None and (self.min is not None or self.max is not None):
            return [(("values",), "a column has either `values` or a range")]
        if self.min is not None and self.max is not None and self.min > self.max:
            return [(("min",), f"min {self.min} is above max {self.max}: no value can pass")]
        return []


class Data(Section):
    """Labelled rows for the gates and for calibration (.parquet or .csv; `${SLIPWAY_HOME}` is expanded).

    `inputs` maps each tensor name to its columns (scalars, stacked in order) or to one list-valued column.
    Without it, the one input takes every column that is neither label, slice nor `ignore`.
    """

    evaluation: str
    calibration: str
    label: str
    positive: str | int = 1
    inputs: dict[str, tuple[str, ...] | str] | None = None
    slices: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    columns: dict[str, Column] = {}
    min_rows: Annotated[int, Field(ge=1)] = 200
    min_positive_share: Share = 0.01
    max_positive_share: Share = 0.99
    max_leaked_share: Share = 0.0

    @field_validator("evaluation", "calibration")
    @classmethod
    def _file_is_a_table(cls, path: str) -> str:
        if not path.endswith((".parquet", ".csv")):
            raise ValueError("a .parquet or .csv file")
        return path

    def contradictions(self) -> list[Found]:
        found = repeated("slices", self.slices) + repeated("ignore", self.ignore)
        if self.evaluation == self.calibration:
            found.append((("calibration",), "calibration rows may not be evaluation rows: use another file"))
        if self.min_positive_share > self.max_positive_share:
            found.append((("min_positive_share",), f"above max_positive_share {self.max_positive_share}"))
        for tensor, columns in (self.inputs or {}).items():
            if self.label in ((columns,) if isinstance(columns, str) else columns):
                found.append((("inputs", tensor), f"feeds the label `{self.label}` to the model"))
        return found


class Margin(Section):
    """Non-inferiority: the candidate may lose at most `max_drop` (share, not percent) at `confidence`."""

    max_drop: Annotated[float, Field(ge=0, lt=0.5)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    min: Share | None = None


class SliceMargin(Margin):
    """The same per slice value; slices with fewer rows than `min_rows` are reported, not judged."""

    min_rows: Annotated[int, Field(ge=1)] = 100


class LatencyLimit(Section):
    """Of one row at a time on this machine; `max_ratio` is against the fp32 ONNX model in the same run."""

    max_p99_ms: Annotated[float, Field(gt=0)] | None = None
    max_ratio: Annotated[float, Field(gt=0)] | None = None


class SizeLimit(Section):
    """Of the candidate's model file."""

    max_mb: Annotated[float, Field(gt=0)]


class Gates(Section):
    """Limits every candidate must keep. Whatever is written here blocks."""

    accuracy: Margin = Margin(max_drop=0.01)
    auc: Margin | None = Margin(max_drop=0.01)
    slices: SliceMargin | None = None
    champion: Margin | None = None
    latency: LatencyLimit = LatencyLimit()
    size: SizeLimit | None = None
    export_tolerance: Annotated[float, Field(gt=0, le=0.1)] = 1e-4


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

    `stochastic`: equal inputs may have different answers, so nothing is cached or shared.
    `finite_inputs` and `finite_outputs`: NaN and infinity are refused, and are the model's failure.
    """

    target: Literal["local", "kubernetes"] = "local"
    runtime: TargetName = "onnxruntime"
    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    max_queue_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 2
    timeout_ms: Annotated[int, Field(ge=10, le=600_000)] = 1000
    idempotent: bool = True
    ready_timeout_seconds: Annotated[float, Field(gt=0)] = 60
    max_queue_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 2048
    stochastic: bool = False
    finite_inputs: bool = True
    finite_outputs: bool = True
    cache: Cache | None = None
    request_log: RequestLog | None = None
    fallback: Fallback | None = None

    def contradictions(self) -> list[Found]:
        if self.max_queue_delay_ms >= self.timeout_ms:
            return [
                (("max_queue_delay_ms",), f"not below timeout_ms {self.timeout_ms}: requests expire queued")
            ]
        return []


class Step(Section):
    """Give the candidate `weight` percent for at least `hold_seconds`."""

    weight: Annotated[float, Field(gt=0, le=100)]
    hold_seconds: Seconds


class Analysis(Section):
    """What the judge accepts of a candidate (see docs/verdicts.md).

    `alpha`: chance that a healthy release is ever rolled back. `error_tolerance`: how much higher than
    stable's the candidate's error rate may be. `max_error_rate`: never above this, whatever stable does.
    `min_requests`: a step passes only after the candidate answered this many in it.
    """

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.001
    max_error_rate: Annotated[float, Field(gt=0, lt=1)] = 0.01
    error_tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.005
    latency_objective_ms: Annotated[float, Field(gt=0)] = 500
    max_slow_share: Annotated[float, Field(gt=0, lt=1)] = 0.01
    min_requests: Annotated[int, Field(ge=1)] = 50


class Rollout(Section):
    """Canary: the steps in order, the last at 100. Blue-green: `preview_seconds`, then one switch."""

    strategy: Literal["canary", "blue_green"] = "canary"
    steps: tuple[Step, ...] = ()
    preview_seconds: Seconds = 60
    max_step_seconds: Annotated[float, Field(gt=0)] = 3600
    watch_seconds: Seconds = 3600
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


class ReleaseSpec(Section):
    """Everything Slipway must know to release one model."""

    model: str
    description: str = ""
    owner: str = ""
    source: Source
    data: Data
    precisions: tuple[Precision, ...] = Field(default=("fp32", "fp16", "int8"), min_length=1)
    targets: tuple[TargetName, ...] = Field(default=("onnxruntime", "tensorrt_rtx"), min_length=1)
    prefer: Literal["latency", "size", "order"] = "latency"
    gates: Gates = Gates()
    serving: Serving = Serving()
    rollout: Rollout
    approval: Approval | None = None
    schedule: str | None = None

    @field_validator("model")
    @classmethod
    def _name_is_safe(cls, name: str) -> str:
        if not MODEL_NAME.fullmatch(name) or ".." in name:
            raise ValueError(
                "1-100 of letters, digits, '_', '-', '.', starting with a letter or digit, no '..'"
            )
        return name

    @field_validator("schedule")
    @classmethod
    def _schedule_comes_round(cls, schedule: str | None) -> str | None:
        return schedule if schedule is None else refuse_bad_schedule(schedule)

    def contradictions(self) -> list[Found]:
        found = repeated("precisions", self.precisions) + repeated("targets", self.targets)
        runtime, timeout, p99 = self.serving.runtime, self.serving.timeout_ms, self.gates.latency.max_p99_ms
        if runtime not in self.targets:
            found.append((("serving", "runtime"), f"`{runtime}` is not among targets {list(self.targets)}"))
        if self.gates.slices and not self.data.slices:
            found.append((("gates", "slices"), "data.slices names no column to slice by"))
        if p99 is not None and p99 > timeout:
            found.append((("gates", "latency", "max_p99_ms"), f"above serving.timeout_ms {timeout}"))
        return found

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of what the spec says; comments and order of fields do not count."""
        said = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(said.encode()).hexdigest()
