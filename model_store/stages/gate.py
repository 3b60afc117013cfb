"""Stage 5: one variant's accuracy, latency and size against the spec's limits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import cast

import numpy as np

from model_store.arrays import saved_answers
from model_store.bundle.publishing import open_bundle, open_signature, serving_model
from model_store.durable import canonical_json, digest_bytes, digest_file
from model_store.engines.noise import NOISE
from model_store.gates.choose import UNLIKE
from model_store.gates.exam import Answered
from model_store.gates.judge import judge
from model_store.gates.profile import Profile
from model_store.gates.reading import Outputs
from model_store.gates.sanity import NoBetterThanTrivial, refuse_trivial
from model_store.gates.signature import VersionSignature, changes, judge_signature
from model_store.inference import session_config
from model_store.records import read_tensors, report_record
from model_store.stages.base import BuildContext, Compiled, Exported, Gated, Json, Quantized
from model_store.stages.candidate import REMEDY, run_candidate
from model_store.stages.examine import Examined, examine, read_answers, read_champion
from model_store.stages.forms import form_of, is_as_logged
from model_store.stages.inputs import data_key, evaluation_path, reading_key, tools
from model_store.stages.reasons import CandidateFailed, attempt
from model_store.stages.sample import Sample, sample_of
from model_store.stages.served import EngineNotHere, JudgedModel
from model_store.types import Check, GateReport, ModelRef, Precision

# Of the spec's serving section, what decides how a candidate is run here.
SERVED_BY = ("runtime", "max_batch_size", "threads", "stochastic")


def run(ctx: BuildContext, exported: Exported, quantized: Quantized, compiled: Sequence[Compiled]) -> Gated:
    """See `model_store.build.gate_stage`."""
    form = form_of(exported, quantized["variant"]) or exported
    targets = ctx.spec.targets_of(quantized["variant"]["precision"])
    mine = [one for one in compiled if one["target"] in targets]
    built = [one for one in mine if one["artifact"] is not None]
    reasons = (
        [quantized["reason"]] if quantized["reason"] else [one["reason"] for one in mine if one["reason"]]
    )
    champion = champion_bundle(ctx)
    key = {
        "variant": dict(quantized["variant"]),
        "original": form["answers"]["blob"],
        "has_rival": bool(exported.get("rival")),
        "baseline": exported["artifact"]["digest"],
        "candidate": quantized["artifact"] and quantized["artifact"]["digest"],
        "built": [one["artifact"] for one in built],
        "reasons": reasons,
        "evaluation": digest_file(evaluation_path(ctx)),
        "data": data_key(ctx),
        "reading": reading_key(ctx, form),
        "gates": ctx.spec.gates.model_dump(mode="json"),
        "serving": ctx.spec.serving.model_dump(mode="json", include=set(SERVED_BY)),
        "champion": champion,
        "session": session_config("int8"),
        "tools": tools("onnxruntime"),
    }
    beside = exported if form is not exported and not is_as_logged(exported) else None
    judge = partial(_judge, ctx, form, beside, quantized, built, reasons, champion)
    try:
        # A failed report is not remembered: latency may have been disturbed, and is then measured again.
        value = ctx.store.memo(
            "gate", key, judge, keep=lambda value: all(check["passed"] for check in value["report"]["checks"])
        )
    except CandidateFailed as why:
        value = _failed(form, quantized, [*reasons, str(why)])
    return cast(Gated, {**value, "judged": judged_of(ctx, exported)})


def judged_of(ctx: BuildContext, exported: Exported) -> Json:
    """What a verdict is about, as it is written into it."""
    export = digest_bytes(canonical_json(exported))
    return {"model": str(ctx.ref), "spec": ctx.spec.digest, "exported": export}


def _failed(exported: Exported, quantized: Quantized, reasons: list[str]) -> Json:
    """Of a candidate that could not be run there is nothing to serve."""
    return {
        "variant": quantized["variant"],
        "report": report_record(GateReport(exported["dataset_digest"], ())),
        "profile": None,
        "served": None,
        "sample": None,
        "engines": [],
        "quantized": quantized["artifact"],
        "reasons": reasons,
    }


def _judge(
    ctx: BuildContext,
    exported: Exported,
    beside: Exported | None,
    quantized: Quantized,
    built: Sequence[Compiled],
    reasons: list[str],
    champion: str | None,
) -> Json:
    """`beside`: the export that the model as it was logged is a rival of."""
    runtime = ctx.spec.runtime_of(quantized["variant"]["precision"])
    served = next((one["artifact"] for one in built if one["target"] == runtime), None)
    checks: tuple[Check, ...] = ()
    profile: Profile | None = None
    sample: Sample | None = None
    examined = _examined(ctx, exported, is_rival=beside is not None)
    rows = examined.rows
    if built and quantized["artifact"] is not None:
        refuse_trivial(examined.original, examined.exam)
        ran = run_candidate(ctx, exported, quantized, built, rows, beside=beside)
        # Read and its signature checked once: between two looks it could become another one.
        serving = open_signature(ctx.store, champion) if champion else None
        checks = signature_checks(ctx, exported, serving) if serving else ()
        yardstick = champion if serving and _is_comparable(ctx, exported, serving) else None
        if ran.outputs is not None:
            precision = quantized["variant"]["precision"]
            checks += ran.noted(_judged_answers(ctx, examined, precision, ran.outputs, yardstick))
            sample = sample_of(rows.inputs, ran.outputs, ran.noise)
            if exported.get("rival"):
                checks += _unlike(examined, precision, ran.outputs)
        checks += ran.checks
        profile = ran.profile
    return {
        "variant": quantized["variant"],
        "report": report_record(GateReport(rows.digest, checks)),
        "profile": asdict(profile) if profile else None,
        "served": served,
        "sample": {"blob": ctx.store.put_bytes(sample.to_bytes())} if sample is not None else None,
        "engines": [one["artifact"] for one in built if one["target"] != "onnxruntime"],
        "quantized": quantized["artifact"],
        "reasons": reasons,
    }


def _examined(ctx: BuildContext, exported: Exported, *, is_rival: bool) -> Examined:
    """A rival that cannot be read leaves the export to be judged alone."""
    if not is_rival:
        return examine(ctx, exported)
    with attempt("reading the answers of the model as it was logged", otherwise=REMEDY):
        return examine(ctx, exported)


def _judged_answers(
    ctx: BuildContext, examined: Examined, precision: Precision, outputs: Outputs, champion: str | None
) -> tuple[Check, ...]:
    with attempt(f"reading the answers of {precision}", otherwise=REMEDY):
        candidate = Answered.read(precision, outputs, examined.exam.reading, len(examined.rows))
        # As the export forgives them (docs/decisions/0135).
        tie = 2 * ctx.spec.gates.export_tolerance
        candidate = candidate.deciding_ties_as(examined.original, tie=tie, noise=NOISE[precision])
    yardstick, told = _yardstick(ctx, champion, examined) if champion else (None, ())
    return judge(examined.original, candidate, examined.exam, yardstick) + told


def _unlike(examined: Examined, precision: Precision, outputs: Outputs) -> tuple[Check, ...]:
    """Told, not judged: what the export is worth is said beside it (`model_store.gates.choose`)."""
    own, other = (
        Answered.read(precision, outputs, examined.exam.reading, len(examined.rows)).said.decisions,
        examined.original.said.decisions,
    )
    if own is None or other is None:
        return ()
    rows = (np.asarray(own) != np.asarray(other)).reshape(len(examined.rows), -1).any(axis=1)
    detail = f"{int(rows.sum())} of {len(rows)} rows are decided otherwise"
    return (Check(UNLIKE, float(rows.mean()), 1.0, passed=True, detail=detail, direction="at_most"),)


def _yardstick(
    ctx: BuildContext, champion: str, examined: Examined
) -> tuple[Answered | None, tuple[Check, ...]]:
    """The champion's answers. Where nobody wrote `gates.champion`, one that this machine cannot run, or that
    is read the wrong way round, is told of and blocks nothing. Changed bytes end the build either way.
    """
    try:
        return _champion(ctx, champion, examined), ()
    except (EngineNotHere, NoBetterThanTrivial) as why:
        if ctx.spec.gates.champion is not None:
            raise
        detail = f"not compared with the version that serves: {why.problem}"
        return None, (Check("champion", 0.0, 0.0, passed=True, detail=detail, direction="at_most"),)


def signature_checks(ctx: BuildContext, exported: Exported, serving: VersionSignature) -> tuple[Check, ...]:
    """Whether callers of the champion can call this version as they do now, and a limit that cannot be
    measured because they cannot.
    """
    own = _signature(ctx, exported)
    limit = ctx.spec.gates.signature
    check = judge_signature(serving, own, may_break=limit.may_break)
    if not (check.passed and ctx.spec.gates.champion and changes(serving, own).inputs):
        return (check,)
    why = (
        f"v{serving.version} takes other inputs and cannot answer the same rows: leave out gates.champion for"
        " this release, and set gates.accuracy.min"
    )
    name = "accuracy against champion measured"
    return check, Check(name, 0.0, 1.0, passed=False, detail=why, direction="at_least")


def _is_comparable(ctx: BuildContext, exported: Exported, serving: VersionSignature) -> bool:
    """Whether the champion is to be asked, and can answer the rows."""
    return ctx.spec.gates.looks_at_champion and not changes(serving, _signature(ctx, exported)).inputs


def _signature(ctx: BuildContext, exported: Exported) -> VersionSignature:
    inputs, outputs = (read_tensors(exported[role]) for role in ("inputs", "outputs"))
    return VersionSignature(ctx.ref.version, inputs, outputs)


def champion_bundle(ctx: BuildContext) -> str | None:
    """Id of the bundle that the champion was released as; None before there is one.

    None also for the champion itself: compared with itself it says nothing, and to release it again is the
    way out when its bundle is gone or no longer trusted.
    """
    number = ctx.registry.aliases(ctx.spec.model).get("champion")
    if number is None or number == ctx.ref.version:
        return None
    return ctx.registry.describe(ModelRef(ctx.spec.model, number)).tags.get("slipway.bundle")


def _champion(ctx: BuildContext, bundle_id: str, examined: Examined) -> Answered:
    """What the champion answers to the same rows. Raises `Permanent` when it takes other inputs.

    Asked once for all variants: a large model answers a thousand rows in ten seconds.
    """
    rows = examined.rows
    bundle = open_bundle(ctx.store, bundle_id)
    _, config = serving_model(bundle)
    key = {
        "bundle": bundle_id,
        "session": config,
        "evaluation": rows.digest,
        "columns": dict(rows.columns),
        "tools": tools("onnxruntime"),
    }

    def ask() -> Json:
        with closing(JudgedModel.of_bundle(bundle.path)) as served:
            outputs = served.answer(rows.inputs)
        return {"answers": {"blob": ctx.store.put_bytes(saved_answers(outputs))}}

    said = ctx.store.memo("champion", key, ask)
    outputs = read_answers(ctx, said["answers"]["blob"])
    return read_champion(ctx, examined, f"v{bundle.model.version}", outputs)
