"""Stage 4: one variant for one target."""

from __future__ import annotations

from dataclasses import asdict
from typing import cast

from model_store.compile import Compiler, CompileSpec, NotCompiled, compiler
from model_store.records import artifact_record
from model_store.stages.base import BuildContext, Compiled, Json, Quantized
from model_store.stages.inputs import tools
from model_store.stages.reasons import CandidateFailed, attempt
from model_store.types import TargetName


def run(ctx: BuildContext, quantized: Quantized, target: TargetName) -> Compiled:
    """See `model_store.build.compile_stage`."""
    if quantized["artifact"] is None:
        return _none(quantized, target, quantized["reason"])
    if target not in ctx.spec.targets_of(quantized["variant"]["precision"]):
        return _none(quantized, target, f"{quantized['variant']['precision']} is not for {target}")
    if not _takes(target, quantized):
        layout = quantized["variant"]["layout"]
        return _none(quantized, target, f"int8 in the layout of {layout} is not for {target}")
    spec = CompileSpec(max_batch_size=ctx.spec.serving.max_batch_size)
    builder = compiler(target, ctx.store)
    key = {
        "source": quantized["artifact"]["digest"],
        "target": target,
        "toolchain": asdict(builder.toolchain(spec)),
        "spec": asdict(spec),
        "tools": tools(),
    }
    # A refusal is not remembered: it may be a time limit on a busy machine, and asking again is cheap.
    try:
        made = ctx.store.memo(
            "compile",
            key,
            lambda: _compile(ctx, builder, quantized, spec),
            keep=lambda value: bool(value["artifact"]),
        )
    except CandidateFailed as why:
        return _none(quantized, target, str(why))
    return cast(Compiled, made)


def _compile(ctx: BuildContext, builder: Compiler, quantized: Quantized, spec: CompileSpec) -> Json:
    assert quantized["artifact"] is not None
    source = ctx.store.open(quantized["artifact"])
    with attempt(f"compiling for {builder.name}", otherwise="serve another target"):
        made = builder.compile(source, spec)
    if isinstance(made, NotCompiled):
        return dict(_none(quantized, cast(TargetName, builder.name), f"{made.reason} ({made.remedy})"))
    return {
        "variant": quantized["variant"],
        "target": builder.name,
        "artifact": artifact_record(made),
        "reason": "",
    }


def _takes(target: TargetName, quantized: Quantized) -> bool:
    """int8 comes in two layouts; anything else suits every target."""
    variant = quantized["variant"]
    is_own = (variant["layout"] == "onnxruntime") == (target == "onnxruntime")
    return variant["precision"] != "int8" or is_own


def _none(quantized: Quantized, target: TargetName, reason: str) -> Compiled:
    return {"variant": quantized["variant"], "target": target, "artifact": None, "reason": reason}
