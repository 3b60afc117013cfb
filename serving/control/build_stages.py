"""The stages of a build as tasks run them: a release id and digests in, a digest and a few words out.

What a stage made stays in the store as a blob of JSON under its digest, so XCom never carries it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from model_store import build
from model_store.build import BuildContext, Compiled, Exported, Gated, Published, Quantized, Variant
from model_store.durable import canonical_json
from model_store.gates.choose import shortfalls
from model_store.records import read_report
from model_store.storage.store import Store
from model_store.types import TargetName
from serving.control import bundle_comparison, wiring
from serving.control.releases import Release
from serving.control.wiring import Services


class StepResult(NamedTuple):
    """What a task hands on, and what it tells people: in its log, and as the name of a mapped instance."""

    value: str
    words: str


def store_result(store: Store, value: Any) -> str:
    """Put a stage's result into the store; returns its digest."""
    return store.put_bytes(canonical_json(value))


def load_result(store: Store, digest: str) -> Any:
    """What `keep` kept. Raises `Permanent` when the store lost it."""
    return json.loads(store.get_bytes(digest))


def build_context(services: Services, release: Release) -> BuildContext:
    return BuildContext(
        store=services.store,
        registry=services.registry,
        spec=release.spec,
        ref=release.ref,
        home=services.home.root,
    )


def export(services: Services, release: Release) -> StepResult:
    exported = build.export_stage(build_context(services, release))
    size = exported["artifact"]["size_bytes"] / 1e6
    words = "; ".join([f"{release.ref} as ONNX, {size:.2f} MB", *exported["notes"]])
    return StepResult(store_result(services.store, exported), words)


def check_data(services: Services, release: Release, exported: str) -> StepResult:
    ctx = build_context(services, release)
    checked = build.check_data_stage(ctx, load_result(ctx.store, exported))
    return StepResult(
        store_result(ctx.store, checked), f"{len(checked['checks'])} expectations about the rows are met"
    )


def quantize(services: Services, release: Release, exported: str, variant: Variant) -> StepResult:
    ctx = build_context(services, release)
    made = build.quantize_stage(ctx, load_result(ctx.store, exported), variant)
    artifact = made["artifact"]
    words = f"{artifact['size_bytes'] / 1e6:.2f} MB" if artifact else f"none: {made['reason']}"
    return StepResult(store_result(ctx.store, made), f"{name_of(variant)}: {words}")


def compile(services: Services, release: Release, quantized: str, target: TargetName) -> StepResult:
    ctx = build_context(services, release)
    variant: Quantized = load_result(ctx.store, quantized)
    made = build.compile_stage(ctx, variant, target)
    words = "built" if made["artifact"] else f"no: {made['reason']}"
    return StepResult(store_result(ctx.store, made), f"{name_of(variant['variant'])} → {target}: {words}")


def gate(
    services: Services, release: Release, exported: str, quantized: str, compiled: Iterable[str]
) -> StepResult:
    ctx = build_context(services, release)
    variant: Quantized = load_result(ctx.store, quantized)
    every = (cast(Compiled, load_result(ctx.store, digest)) for digest in compiled)
    mine = [one for one in every if one["variant"] == variant["variant"]]
    gated = build.gate_stage(ctx, load_result(ctx.store, exported), variant, mine)
    return StepResult(store_result(ctx.store, gated), f"{name_of(variant['variant'])}: {describe(gated)}")


def choose(services: Services, release: Release, gated: Iterable[str]) -> StepResult:
    ctx = build_context(services, release)
    chosen = build.choose_stage(ctx, [load_result(ctx.store, digest) for digest in gated])
    return StepResult(store_result(ctx.store, chosen), f"{chosen['precision']}: {chosen['reason']}")


def publish(
    services: Services, release: Release, exported: str, gated: Iterable[str], chosen: str
) -> StepResult:
    """The value is the bundle's id."""
    ctx = build_context(services, release)
    original: Exported = load_result(ctx.store, exported)
    results = list(gated)
    reports: list[Gated] = [load_result(ctx.store, digest) for digest in results]
    published: Published = build.publish_stage(ctx, original, reports, load_result(ctx.store, chosen))
    compared = bundle_comparison.compare(ctx, services.registry, reports, published["precision"])
    services.releases.built(
        release.id,
        published["bundle"],
        at=wiring.now(),
        gated=results,
        sample=_sample(reports, published["precision"]),
        compared=compared,
    )
    size = published["size_bytes"] / 1e6
    return StepResult(
        published["bundle"], f"bundle {published['bundle']}: {published['precision']}, {size:.2f} MB"
    )


def _sample(reports: Iterable[Gated], precision: str) -> str:
    """The digest of the rows and answers that were kept of what is served; empty where none were."""
    served = (one for one in reports if one["variant"]["precision"] == precision and one.get("served"))
    kept = (one.get("sample") for one in served)
    return next((one["blob"] for one in kept if one), "")


def name_of(variant: Variant) -> str:
    """`int8 for tensorrt`; the layout is said only where there are two."""
    precision, layout = variant["precision"], variant["layout"]
    return f"{precision} for {layout}" if precision == "int8" else precision


def describe(gated: Gated) -> str:
    report = read_report(gated["report"])
    if not report.checks:
        return "; ".join(gated["reasons"]) or "nothing to judge"
    return "passed" if report.passed else f"missed {shortfalls(report)}"
