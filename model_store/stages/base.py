"""What the stages of a build take and give: small JSON values, and what is around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Protocol, TypedDict

from model_store.errors import Permanent
from model_store.release_spec import ReleaseSpec
from model_store.storage.store import Store
from model_store.types import ModelRef, Precision, TargetName

if TYPE_CHECKING:
    from model_store.registry import Downloaded, ModelVersion

Json = dict[str, Any]
Layout = Literal["onnxruntime", "tensorrt", "as logged"]


class Versions(Protocol):
    """What a build asks of the registry; `model_store.registry.Registry` is one."""

    def describe(self, ref: ModelRef) -> ModelVersion: ...

    def download(self, ref: ModelRef, folder: Path, *, max_size_mb: float) -> Downloaded: ...

    def aliases(self, name: str) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class BuildContext:
    """Everything a stage needs besides what earlier stages made. `home` is where `${SLIPWAY_HOME}` points;
    `docs_folder` is another place for Data Docs than the home's. `files`: where a file is that the spec
    names, by what it writes, if that is not where the spec says. `refusal`: why the pods that are to serve it
    can run nothing by an engine, None where they can.
    """

    store: Store
    registry: Versions
    spec: ReleaseSpec
    ref: ModelRef
    home: Path
    docs_folder: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    refusal: Callable[[TargetName], Permanent | None] = lambda engine: None

    @property
    def docs(self) -> Path:
        """Where this version's Data Docs are written: its data and its gates, with an index.html."""
        return self.docs_folder or self.home / "data_docs" / self.ref.name / f"v{self.ref.version}"


class Variant(TypedDict):
    """One form of the model to try. fp32 and fp16 are the same for every layout."""

    precision: Precision
    layout: Layout


class Exported(TypedDict):
    """The model as ONNX, or as it was logged. `answers`: the original's own answers to the evaluation rows,
    kept in the store. `says`: what the model says of itself, nothing of it guessed (see
    `model_store.export.says`). `notes`: what a person should know of the export, in sentences. `invocations`:
    how MLflow's clients ask it. `rival`: the model as it was logged, where it is a candidate beside its
    export; `refused`: why it does not exist in some form that was asked for (`model_store.stages.forms`).
    """

    artifact: Json
    answers: Json
    inputs: list[Json]
    outputs: list[Json]
    columns: dict[str, Any]
    agreement: Json
    dataset_digest: str
    says: Json
    notes: list[str]
    invocations: Json
    lineage: dict[str, str]
    rival: NotRequired[Exported | None]
    refused: NotRequired[dict[str, str]]


class DataChecked(TypedDict):
    """Every expectation about the rows, all met. `docs`: the index of the Data Docs."""

    evaluation_digest: str
    calibration_digest: str
    checks: list[Json]
    docs: str


class Quantized(TypedDict):
    """One variant, or the reason there is none. `how`: method, excluded nodes, changes on calibration."""

    variant: Variant
    artifact: Json | None
    reason: str
    how: Json


class Compiled(TypedDict):
    """A variant built for one target, or the reason there is none."""

    variant: Variant
    target: TargetName
    artifact: Json | None
    reason: str


class Gated(TypedDict):
    """A variant's verdict. `served`: the artifact for the spec's runtime, None if this variant has none.
    `sample`: the blob of a few rows with the answers that were judged (`model_store.stages.sample`).
    `judged`: of which version, export and spec this is the verdict, so that another's is taken for none.
    """

    variant: Variant
    report: Json
    profile: Json | None
    served: Json | None
    sample: Json | None
    engines: list[Json]
    quantized: Json | None
    reasons: list[str]
    judged: Json


class Chosen(TypedDict):
    """The variant that will be served, and why."""

    precision: Precision
    reason: str


class Published(TypedDict):
    """The id of the bundle, and what a person wants to know of it."""

    bundle: str
    precision: Precision
    reason: str
    size_bytes: int
