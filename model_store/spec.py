"""The release spec: the one YAML file a user edits per model, and nothing they may not say in it.

`ReleaseSpec` is pydantic at the edge (`extra="forbid"`); `load` turns its complaints into file, line,
field and allowed values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from model_store.types import Precision, TargetName

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")

Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """Base of every section: unknown fields are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Section):
    """Where the model comes from. Any flavour but ONNX is converted by executing the model's own code."""

    flavor: Literal["onnx", "sklearn"]
    trusted: bool = False
    skops_trusted_types: tuple[str, ...] = ()
    alias: str = "candidate"
    max_size_mb: Annotated[float, Field(gt=0)] = 2048


class Column(Section):
    """What Great Expectations checks of one column."""

    min: float | None = None
    max: float | None = None
    values: tuple[str, ...] | None = None
    nullable: bool = False


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


class Margin(Section):
    """Non-inferiority: the candidate may lose at most `max_drop` (share, not percent) at `confidence`."""

    max_drop: Share
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
    max_mb: Annotated[float, Field(gt=0)]


class Gates(Section):
    """Limits every candidate must keep. Whatever is written here blocks."""

    accuracy: Margin = Margin(max_drop=0.01)
    auc: Margin | None = Margin(max_drop=0.01)
    slices: SliceMargin | None = None
    champion: Margin | None = None
    latency: LatencyLimit = LatencyLimit()
    size: SizeLimit | None = None
    export_tolerance: Annotated[float, Field(gt=0)] = 1e-4


class Serving(Section):
    """How pods run the chosen candidate."""

    target: Literal["local", "kubernetes"] = "local"
    runtime: TargetName = "onnxruntime"
    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    max_queue_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 2
    timeout_ms: Annotated[int, Field(ge=10, le=600_000)] = 1000
    idempotent: bool = True
    ready_timeout_seconds: Annotated[float, Field(gt=0)] = 60


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

    @model_validator(mode="after")
    def _steps_rise_to_all(self) -> Rollout:
        weights = [step.weight for step in self.steps]
        if self.strategy == "canary" and (not weights or weights[-1] != 100):
            raise ValueError("a canary needs steps and the last one has weight 100")
        if weights != sorted(set(weights)):
            raise ValueError(f"step weights must rise, got {weights}")
        if self.strategy == "blue_green" and weights:
            raise ValueError("blue_green has one switch: leave out `steps`, set `preview_seconds`")
        return self


class Approval(Section):
    """Who may let a release onto traffic. Left out, nobody needs to."""

    approvers: tuple[str, ...] = Field(min_length=1)
    required: Annotated[int, Field(ge=1)] = 1
    timeout_seconds: Annotated[float, Field(gt=0)] = 86_400


class ReleaseSpec(Section):
    """Everything Slipway must know to release one model."""

    model: str
    description: str = ""
    owner: str = ""
    source: Source
    data: Data
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    targets: tuple[TargetName, ...] = ("onnxruntime", "tensorrt_rtx")
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


def load(path: Path) -> ReleaseSpec:
    """Read one spec. Raises `Permanent` (InvalidSpec) with file, line, field, and the allowed values."""
    raise NotImplementedError(path)
