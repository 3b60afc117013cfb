"""Stage 3: one variant of the exported model."""

from __future__ import annotations

from dataclasses import asdict
from typing import cast

from model_store.durable import digest_file
from model_store.quantize import NotQuantized, Search, quantize
from model_store.records import artifact_record
from model_store.stages.base import BuildContext, Exported, Json, Quantized, Variant
from model_store.stages.forms import form_of, why_not
from model_store.stages.inputs import calibration_path, calibration_rows, data_key, tools
from model_store.stages.reasons import CandidateFailed, attempt

_TASK_OF = {"regressor": "regression", "ranker": "ranking"}
_BY_VALUES = ("regression", "ranking", "multilabel", "custom")
# Noise of so much of the spread raises the error of a model that explains nine tenths of it by 1 %.
MOST_MOVED = 0.05
REMEDY = "leave this precision out of `precisions`, or export the model with other operators"


def run(ctx: BuildContext, exported: Exported, variant: Variant) -> Quantized:
    """See `model_store.build.quantize_stage`."""
    form = form_of(exported, variant)
    if form is None:
        return {"variant": variant, "artifact": None, "reason": why_not(exported, variant), "how": {}}
    if variant["layout"] == "as logged":
        return {"variant": variant, "artifact": form["artifact"], "reason": "", "how": {}}
    search = _search(ctx, exported)
    key = {
        "source": exported["artifact"]["digest"],
        "variant": variant,
        "calibration": digest_file(calibration_path(ctx)),
        "data": data_key(ctx),
        "columns": exported["columns"],
        "search": asdict(search),
        "tools": tools("onnx", "onnxruntime"),
    }
    try:
        made = ctx.store.memo("quantize", key, lambda: _quantize(ctx, exported, variant, search))
    except CandidateFailed as why:
        return {"variant": variant, "artifact": None, "reason": str(why), "how": {}}
    return cast(Quantized, made)


def _search(ctx: BuildContext, exported: Exported) -> Search:
    says = exported.get("says") or {}
    if (ctx.spec.task or _TASK_OF.get(says.get("kind") or "", "")) in _BY_VALUES:
        return Search(max_changed=MOST_MOVED, by_values=True)
    # Half of it may be lost: rows it was not calibrated on change more, and the gate asks for confidence.
    return Search(max_changed=_allowed(ctx))


def _allowed(ctx: BuildContext) -> float:
    """The share of decisions that may change: what may be lost of accuracy, where that is judged."""
    limit = ctx.spec.gates.accuracy
    return limit.allowed if limit is not None and limit.is_drop else Search().max_changed


def _quantize(ctx: BuildContext, exported: Exported, variant: Variant, search: Search) -> Json:
    source = ctx.store.open(exported["artifact"])
    rows = calibration_rows(ctx, exported).inputs
    precision, layout = variant["precision"], variant["layout"]
    assert layout != "as logged"
    with attempt(f"conversion to {precision}", otherwise=REMEDY):
        made = quantize(ctx.store, source, precision, layout, rows, search=search)
    if isinstance(made, NotQuantized):
        return {"variant": variant, "artifact": None, "reason": made.reason, "how": {}}
    how = ctx.store.provenance(made.digest)
    return {"variant": variant, "artifact": artifact_record(made), "reason": "", "how": how}
