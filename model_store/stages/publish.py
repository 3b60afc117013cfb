"""Stage 7: the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_store.bundle.publishing import BundleContents, publish
from model_store.durable import canonical_json, digest_bytes, digest_file
from model_store.errors import Permanent
from model_store.inference import session_config
from model_store.records import read_report, read_tensors
from model_store.stages import data
from model_store.stages.base import BuildContext, Chosen, Exported, Gated, Json, Published
from model_store.stages.export import require_unchanged
from model_store.stages.forms import form_of
from model_store.stages.gate import judged_of
from model_store.stages.inputs import calibration_path, evaluation_rows
from model_store.types import Artifact


def run(ctx: BuildContext, exported: Exported, gated: Sequence[Gated], chosen: Chosen) -> Published:
    """See `model_store.build.publish_stage`."""
    checked = _require_judged(ctx, exported, gated, chosen)
    bundle = publish(ctx.store, _contents(ctx, exported, gated, chosen, checked))
    return {
        "bundle": bundle.id,
        "precision": chosen["precision"],
        "reason": chosen["reason"],
        "size_bytes": bundle.artifacts[0].size_bytes,
    }


def _require_judged(ctx: BuildContext, exported: Exported, gated: Sequence[Gated], chosen: Chosen) -> str:
    """What is signed was judged: this version by this spec, and it passed; its rows were checked.

    What tasks hand on are hints: who may run tasks may hand on another's results, or mark one successful that
    failed. Returns the digest of the data check. Raises `Permanent`.
    """
    require_unchanged(ctx, ctx.registry.describe(ctx.ref), str(exported["lineage"]["source_digest"]))
    checked = data.run(ctx, exported)
    judged = judged_of(ctx, exported)
    if strangers := [one for one in gated if one.get("judged") != judged]:
        raise Permanent(
            f"{len(strangers)} of {len(gated)} verdicts that were handed on are not about this export of"
            f" {ctx.ref} by this spec: {strangers[0].get('judged')}",
            remedy="clear the run from its first task; find out who set what its tasks hand on",
        )
    passed = [one for one in gated if read_report(one["report"]).passed and one["served"] is not None]
    if chosen["precision"] not in [one["variant"]["precision"] for one in passed]:
        raise Permanent(
            f"{chosen['precision']} of {ctx.ref} was chosen, and its gates did not pass it",
            remedy="clear the run from the task `choose`; find out who set what it hands on",
        )
    return digest_bytes(canonical_json({**checked, "docs": ""}))


def _contents(
    ctx: BuildContext, exported: Exported, gated: Sequence[Gated], chosen: Chosen, checked: str
) -> BundleContents:
    same = [one for one in gated if one["variant"]["precision"] == chosen["precision"]]
    winner = next(one for one in same if one["served"] is not None and read_report(one["report"]).passed)
    exported = form_of(exported, winner["variant"]) or exported
    runtime = ctx.spec.runtime_of(chosen["precision"])
    assert winner["served"] is not None
    return BundleContents(
        model=ctx.ref,
        served=ctx.store.open(winner["served"]),
        inputs=read_tensors(exported["inputs"]),
        outputs=read_tensors(exported["outputs"]),
        serving=_serving(ctx, runtime),
        session_config=session_config(chosen["precision"]) if runtime == "onnxruntime" else {},
        warmup=evaluation_rows(ctx, exported).inputs,
        report=read_report(winner["report"]),
        engines=_engines(ctx, same, winner),
        ancestors=_ancestors(ctx, exported, same),
        lineage={**_lineage(ctx, exported, winner), "data_check_digest": checked},
        evidence=_evidence(gated, chosen, winner),
        invocations=exported.get("invocations", {}),
    )


def _serving(ctx: BuildContext, runtime: str) -> Json:
    """The spec's section, and what else the pod must know of this model's promises."""
    objective = ctx.spec.rollout.analysis.latency_objective_ms
    said = ctx.spec.serving.model_dump(mode="json")
    return {**said, "runtime": runtime, "latency_objective_ms": objective}


def _engines(ctx: BuildContext, same: Sequence[Gated], winner: Gated) -> tuple[Artifact, ...]:
    """Engines of the served precision, from variants that passed their own gate."""
    records = [engine for one in same if read_report(one["report"]).passed for engine in one["engines"]]
    return tuple(ctx.store.open(record) for record in records if record != winner["served"])


def _ancestors(ctx: BuildContext, exported: Exported, same: Sequence[Gated]) -> tuple[Artifact, ...]:
    records = [one["quantized"] for one in same if one["quantized"]] + [exported["artifact"]]
    return tuple(ctx.store.open(record) for record in records)


def _lineage(ctx: BuildContext, exported: Exported, winner: Gated) -> dict[str, Any]:
    return {
        **exported["lineage"],
        "onnx_digest": exported["artifact"]["digest"],
        "evaluation_digest": winner["report"]["dataset_digest"],
        "calibration_digest": digest_file(calibration_path(ctx)),
        "spec_digest": ctx.spec.digest,
    }


def _evidence(gated: Sequence[Gated], chosen: Chosen, winner: Gated) -> dict[str, Any]:
    """What was measured of every variant: for people, and for the release's record. Pods read what the winner
    takes of a GPU.
    """
    return {
        "gpu_memory_bytes": (winner["profile"] or {}).get("gpu_memory_bytes", 0),
        "chosen": dict(chosen),
        "variants": [{key: one[key] for key in ("variant", "report", "profile", "reasons")} for one in gated],
    }
