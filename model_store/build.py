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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from model_store.release_spec import ReleaseSpec
from model_store.stages.base import (
    BuildContext,
    Chosen,
    Compiled,
    DataChecked,
    Exported,
    Gated,
    Layout,
    Published,
    Quantized,
    Variant,
)
from model_store.types import Bundle, Precision, TargetName

log = logging.getLogger("slipway.build")


def variants(spec: ReleaseSpec) -> list[Variant]:
    """What the spec asks to try, in its order; int8 once for each layout its targets need. The model as it
    was logged is one: itself.
    """
    quantized: list[Layout] = ["onnxruntime"]
    if set(spec.targets) & {"tensorrt", "tensorrt_rtx"}:
        quantized.append("tensorrt")
    layouts: dict[Precision, list[Layout]] = {"int8": quantized, "original": ["as logged"]}
    return [
        {"precision": precision, "layout": layout}
        for precision in spec.precisions
        for layout in layouts.get(precision, quantized[:1])
    ]


def export_stage(ctx: BuildContext) -> Exported:
    """The registered version as one checked ONNX file that agrees with the original; where the spec wants it
    as it was logged, as one archive of the model and what its environment is made of. Where it wants both,
    both.

    Raises `Permanent` for what can be had in no form, `Retryable` while MLflow does not answer.
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
    targets = ctx.spec.targets_of(variant["precision"])
    compiled = [compile_stage(ctx, quantized, target) for target in targets]
    return gate_stage(ctx, exported, quantized, compiled)
