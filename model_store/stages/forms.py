"""The forms in which a version is a candidate: exported to ONNX, and as it was logged.

The first that there is speaks for the version (its `Exported`); the other is its `rival`. A form that was
asked for and is not there has its reason under `refused`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from model_store.release_spec import Outputs, ReleaseSpec
from model_store.stages.base import BuildContext, Exported, Json, Variant

AS_LOGGED = "mlflow"
ONNX = "onnx"


def wanted_forms(spec: ReleaseSpec) -> tuple[str, ...]:
    """By what the spec wants to try."""
    exported = [ONNX] if set(spec.precisions) - {"original"} else []
    return (*exported, *([AS_LOGGED] if "original" in spec.precisions else []))


def is_as_logged(exported: Exported) -> bool:
    """Whether this form is the model as it was logged, run by a Python of its own."""
    return str(exported["artifact"]["format"]) == AS_LOGGED


def form_of(exported: Exported, variant: Variant) -> Exported | None:
    """What the variant is made of, None where the version does not exist in that form."""
    form = _wanted(variant)
    both = (exported, exported.get("rival"))
    return next((one for one in both if one and one["artifact"]["format"] == form), None)


def why_not(exported: Exported, variant: Variant) -> str:
    """Why it does not exist in that form."""
    form = _wanted(variant)
    how = "cannot be served as it was logged" if form == AS_LOGGED else "cannot be exported"
    return f"{how}: {(exported.get('refused') or {}).get(form, 'nobody asked for it')}"


def both(ctx: BuildContext, made: dict[str, Exported], refused: dict[str, str]) -> Json:
    """One record of all forms that could be made, at least one."""
    first, *others = [made[form] for form in wanted_forms(ctx.spec) if form in made]
    rival = cast(Exported, {**others[0], "says": _said_by(first, others[0])}) if others else None
    return {**first, "rival": rival, "refused": refused}


def in_words_of(ctx: BuildContext, form: Exported) -> BuildContext:
    """The context in which a form is read: beside exports, what `outputs` names is of them, and the model
    as it was logged may call it otherwise.
    """
    if ctx.spec.is_served_as_logged or not is_as_logged(form):
        return ctx
    named = ctx.spec.outputs.model_dump(include={"label", "scores", "value"}, exclude_none=True)
    if set(named.values()) <= {one["name"] for one in form["outputs"]}:
        return ctx
    unnamed = Outputs(threshold=ctx.spec.outputs.threshold)
    return replace(ctx, spec=ctx.spec.model_copy(update={"outputs": unnamed}))


def _wanted(variant: Variant) -> str:
    return AS_LOGGED if variant["layout"] == "as logged" else ONNX


def _said_by(exported: Exported, rival: Exported) -> Json:
    """What the export knows of the model, in the rival's words: its one answer is what `predict` says."""
    says, answer, outputs = exported["says"], exported["invocations"]["answer"], rival["outputs"]
    served = answer.get("output")
    if served is None or len(outputs) != 1:
        return {**rival["says"], "kind": says["kind"]}
    name, are_probabilities = outputs[0]["name"], says["probabilities"].get(served)
    return {
        **says,
        "outputs": {name: says["outputs"].get(served)},
        "probabilities": {} if are_probabilities is None else {name: are_probabilities},
    }
