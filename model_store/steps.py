"""The stages of a build one by one: digests in, a digest and a few words out.

What a stage made is kept in the store as a blob of JSON, so that neither XCom nor a command line carries it.
Airflow's tasks (`serving.control.build_stages`) and `slipway stage` (`model_store.stage_request`) both run
these, wherever they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from model_store import build
from model_store.durable import canonical_json
from model_store.gates.choose import shortfalls
from model_store.records import read_report
from model_store.stages.base import BuildContext, Compiled, Exported, Gated, Quantized, Variant
from model_store.stages.forms import is_as_logged
from model_store.storage.store import Store
from model_store.types import TargetName


class StepResult(NamedTuple):
    """What a step hands on, and what it tells people: in its log, and as the name of a mapped instance."""

    value: str
    words: str


def store_result(store: Store, value: Any) -> str:
    """Put a stage's result into the store; returns its digest."""
    return store.put_bytes(canonical_json(value))


def load_result(store: Store, digest: str) -> Any:
    """What `store_result` kept. Raises `Permanent` when the store lost it."""
    return json.loads(store.get_bytes(digest))


def export(ctx: BuildContext) -> StepResult:
    """The value is the digest of an `Exported`."""
    exported = build.export_stage(ctx)
    made = [form for form in (exported, exported.get("rival")) if form]
    told = [f"{ctx.ref} {_form(form)}, {form['artifact']['size_bytes'] / 1e6:.2f} MB" for form in made]
    notes = dict.fromkeys(note for form in made for note in form["notes"])
    return StepResult(store_result(ctx.store, exported), "; ".join([*told, *notes]))


def _form(exported: Exported) -> str:
    return "as it was logged" if is_as_logged(exported) else "as ONNX"


def check_data(ctx: BuildContext, exported: str) -> StepResult:
    """The value is the digest of a `DataChecked`."""
    checked = build.check_data_stage(ctx, load_result(ctx.store, exported))
    return StepResult(
        store_result(ctx.store, checked), f"{len(checked['checks'])} expectations about the rows are met"
    )


def quantize(ctx: BuildContext, exported: str, variant: Variant) -> StepResult:
    """The value is the digest of a `Quantized`."""
    made = build.quantize_stage(ctx, load_result(ctx.store, exported), variant)
    artifact = made["artifact"]
    words = f"{artifact['size_bytes'] / 1e6:.2f} MB" if artifact else f"none: {made['reason']}"
    return StepResult(store_result(ctx.store, made), f"{name_of(variant)}: {words}")


def compile(ctx: BuildContext, quantized: str, target: TargetName) -> StepResult:
    """The value is the digest of a `Compiled`."""
    variant: Quantized = load_result(ctx.store, quantized)
    made = build.compile_stage(ctx, variant, target)
    words = "built" if made["artifact"] else f"no: {made['reason']}"
    return StepResult(store_result(ctx.store, made), f"{name_of(variant['variant'])} → {target}: {words}")


def gate(ctx: BuildContext, exported: str, quantized: str, compiled: Iterable[str]) -> StepResult:
    """The value is the digest of a `Gated`. Of `compiled`, those of other variants are left out."""
    variant: Quantized = load_result(ctx.store, quantized)
    every = (cast(Compiled, load_result(ctx.store, digest)) for digest in compiled)
    mine = [one for one in every if one["variant"] == variant["variant"]]
    gated = build.gate_stage(ctx, load_result(ctx.store, exported), variant, mine)
    return StepResult(store_result(ctx.store, gated), f"{name_of(variant['variant'])}: {describe(gated)}")


def choose(ctx: BuildContext, gated: Iterable[str]) -> StepResult:
    """The value is the digest of a `Chosen`. Raises `NothingPassed`."""
    chosen = build.choose_stage(ctx, [load_result(ctx.store, digest) for digest in gated])
    return StepResult(store_result(ctx.store, chosen), f"{chosen['precision']}: {chosen['reason']}")


def publish(ctx: BuildContext, exported: str, gated: Iterable[str], chosen: str) -> StepResult:
    """The value is the bundle's id."""
    reports = [load_result(ctx.store, digest) for digest in gated]
    original, choice = load_result(ctx.store, exported), load_result(ctx.store, chosen)
    published = build.publish_stage(ctx, original, reports, choice)
    size = published["size_bytes"] / 1e6
    bundle, precision = published["bundle"], published["precision"]
    return StepResult(bundle, f"bundle {bundle}: {precision}, {size:.2f} MB")


def name_of(variant: Variant) -> str:
    """`int8 for tensorrt`; the layout is said only where there are two."""
    precision, layout = variant["precision"], variant["layout"]
    return f"{precision} for {layout}" if precision == "int8" else precision


def describe(gated: Gated) -> str:
    """A variant's verdict in a few words."""
    report = read_report(gated["report"])
    if not report.checks:
        return "; ".join(gated["reasons"]) or "nothing to judge"
    return "passed" if report.passed else f"missed {shortfalls(report)}"
