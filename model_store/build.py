"""From a registry event to a bundle. Read this first.

    export -> check data -> quantize each variant -> compile it for every target -> gate it
        -> choose -> publish

`build_bundle` runs it in one process; Airflow runs the same stages one by one. Each stage takes and returns
small JSON values (digests, numbers, words: never payloads), remembers in the store what it made of its
inputs, and so may be repeated, from any point, for nothing. Heavy libraries are imported inside the stages:
an Airflow task pays only for its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

from model_store.release_spec import ReleaseSpec
from model_store.storage.store import Store
from model_store.types import Bundle, ModelRef, Precision, TargetName

if TYPE_CHECKING:
    from model_store.registry import Downloaded, ModelVersion

log = logging.getLogger("slipway.build")

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
    names, by what it writes, if that is not where the spec says.
    """

    store: Store
    registry: Versions
    spec: ReleaseSpec
    ref: ModelRef
    home: Path
    docs_folder: Path | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def docs(self) -> Path:
        """Where this version's Data Docs are written: its data and its gates, with an index.html."""
        return self.docs_folder or self.home / "data_docs" / self.ref.name / f"v{self.ref.version}"


class Variant(TypedDict):
    """One form of the model to try. fp32 and fp16 are the same for every layout."""

    precision: Precision
    layout: Layout


class Exported(TypedDict):
    """The model as ONNX. `answers`: the original's own answers to the evaluation rows, kept in the store.
    `says`: what the model says of itself, nothing of it guessed (see `model_store.export.says`).
    `notes`: what a person should know of the export, in sentences. `invocations`: how MLflow's
    clients ask it.
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


def variants(spec: ReleaseSpec) -> list[Variant]:
    """What the spec asks to try, in its order; int8 once for each layout its targets need. A model that is
    served as it is has one: itself.
    """
    if spec.is_served_as_logged:
        return [{"precision": "original", "layout": "as logged"}]
    layouts: list[Layout] = ["onnxruntime"]
    if set(spec.targets) & {"tensorrt", "tensorrt_rtx"}:
        layouts.append("tensorrt")
    return [
        {"precision": precision, "layout": layout}
        for precision in spec.precisions
        for layout in (layouts if precision == "int8" else layouts[:1])
    ]


def export_stage(ctx: BuildContext) -> Exported:
    """The registered version as one checked ONNX file that agrees with the original; of the flavour pyfunc,
    as one archive of the model and what its environment is made of.

    Raises `Permanent` for what can never be exported, `Retryable` while MLflow does not answer.
    """
    from model_store.stages.export import run

    with _told(f"export {ctx.ref}"):
        return run(ctx)


def check_data_stage(ctx: BuildContext, exported: Exported) -> DataChecked:
    """Great Expectations over evaluation and calibration rows. Raises `Permanent` naming what is wrong."""
    from model_store.stages.data import run

    return run(ctx, exported)


def quantize_stage(ctx: BuildContext, exported: Exported, variant: Variant) -> Quantized:
    """The model in one precision and layout, or the reason it does not exist in that."""
    from model_store.stages.quantize import run

    with _told(f"quantize {variant['precision']} for {variant['layout']}"):
        return run(ctx, exported, variant)


def compile_stage(ctx: BuildContext, quantized: Quantized, target: TargetName) -> Compiled:
    """One variant for one target, or the reason that target does not take it."""
    from model_store.stages.compile import run

    with _told(f"compile {quantized['variant']['precision']} for {target}"):
        return run(ctx, quantized, target)


def gate_stage(
    ctx: BuildContext, exported: Exported, quantized: Quantized, compiled: Sequence[Compiled]
) -> Gated:
    """Accuracy, latency and size of one variant against the spec's limits. `compiled`: all its targets.

    A failed limit is part of the result, not an exception: other variants may pass.
    """
    from model_store.stages.gate import run

    with _told(f"gate {quantized['variant']['precision']} for {quantized['variant']['layout']}"):
        return run(ctx, exported, quantized, compiled)


def choose_stage(ctx: BuildContext, gated: Sequence[Gated]) -> Chosen:
    """The best variant that passed, after Great Expectations has written every variant's checks to the docs.

    Raises `Permanent` (NothingPassed): for each variant which limits it missed, and by how much.
    """
    from model_store.stages.choose import run

    return run(ctx, gated)


def publish_stage(ctx: BuildContext, exported: Exported, gated: Sequence[Gated], chosen: Chosen) -> Published:
    """The bundle in the store. Identical input gives the identical id, and is not written twice."""
    from model_store.stages.publish import run

    return run(ctx, exported, gated, chosen)


def build_bundle(ctx: BuildContext) -> Bundle:
    """All stages in a row. Raises `Permanent` or `Retryable`, each with its remedy."""
    from model_store.bundle.publishing import open_bundle

    exported = export_stage(ctx)
    check_data_stage(ctx, exported)
    gated = [_gated(ctx, exported, variant) for variant in variants(ctx.spec)]
    published = publish_stage(ctx, exported, gated, choose_stage(ctx, gated))
    return open_bundle(ctx.store, published["bundle"])


@contextmanager
def _told(stage: str) -> Iterator[None]:
    """Progress in the log: a large model takes minutes for a stage."""
    log.info("%s", stage)
    began = time.monotonic()
    yield
    log.info("%s: done after %.1f s", stage, time.monotonic() - began)


def _gated(ctx: BuildContext, exported: Exported, variant: Variant) -> Gated:
    quantized = quantize_stage(ctx, exported, variant)
    compiled = [compile_stage(ctx, quantized, target) for target in ctx.spec.targets]
    return gate_stage(ctx, exported, quantized, compiled)
