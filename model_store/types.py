"""The nouns before traffic. Plain frozen values: no I/O, no defaults that hide a decision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# `original`: a model that is served as it was logged, in whatever numbers it computes.
Precision = Literal["fp32", "fp16", "int8", "original"]
TargetName = Literal["onnxruntime", "tensorrt", "tensorrt_rtx", "python"]

# What a model is for; it decides what its answers and labels mean, and which metrics judge them.
Task = Literal["binary", "multiclass", "multilabel", "regression", "ranking", "custom"]

Direction = Literal["at_least", "at_most", ""]

# Names of the Open Inference Protocol v2; BYTES is text.
Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BYTES",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A version in the MLflow registry, e.g. `ModelRef("credit_risk", 3)`."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model. A dimension of -1 is free; the first one is the batch."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.datatype}{list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What built an artifact: a different toolchain is a different artifact."""

    compiler: str
    version: str
    gpu_arch: str | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """One model file in the store, named by its content.

    `digest` is "sha256:<hex>" of the file's bytes; `path` is where the store keeps it.
    """

    digest: str
    format: Literal["onnx", "tensorrt_rtx", "tensorrt", "mlflow"]
    precision: Precision
    parent_digest: str | None
    toolchain: Toolchain
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Check:
    """One gate limit and what was observed. `passed` is decided by the code that knows the direction.

    `name` is its id: no two checks of a report share one. `direction`: on which side of `limit` the observed
    number passes; empty where whoever wrote the check did not say (reports of older releases).
    A comparison also says the two figures it compares, `reference` and the candidate's own `value`, and by
    which `metric` of the registry.
    """

    name: str
    observed: float
    limit: float
    passed: bool
    detail: str = ""
    reference: float | None = None
    value: float | None = None
    metric: str = ""
    direction: Direction = ""


@dataclass(frozen=True, slots=True)
class GateReport:
    """Every check of one candidate on one evaluation set. It passes only if it has checks and all pass."""

    dataset_digest: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a pod serves: a directory laid out as a Triton model repository, plus its manifest.

    `id` is 24 hex digits of the content's sha256; `path` is `<store>/bundles/<id>`.
    """

    id: str
    model: ModelRef
    artifacts: tuple[Artifact, ...]
    report: GateReport
    path: Path
    signature: str = ""
