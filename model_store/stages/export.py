"""Stage 1: the registered version as one file (ONNX, or itself), with the original's own answers."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from model_store.durable import digest_file
from model_store.errors import Permanent
from model_store.records import artifact_record, tensor_records
from model_store.stages.base import BuildContext, Exported, Json
from model_store.stages.forms import AS_LOGGED, ONNX, both, wanted_forms
from model_store.stages.inputs import data_key, evaluation_path, tools

if TYPE_CHECKING:
    from model_store.export import ExportedModel
    from model_store.registry import ModelVersion
    from model_store.types import Precision

PRECISION_OF: dict[str, Precision] = {ONNX: "fp32", AS_LOGGED: "original"}


def run(ctx: BuildContext) -> Exported:
    """See `model_store.build.export_stage`."""
    ctx.store.sweep()
    registered = ctx.registry.describe(ctx.ref)
    evaluation = evaluation_path(ctx)
    key = {
        # Of what is kept of an export: what an older Slipway kept lacks something.
        "schema": 3,
        "forms": list(wanted_forms(ctx.spec)),
        "no_pods": str(_refusal(ctx, AS_LOGGED) or ""),
        "model": str(ctx.ref),
        # A deleted model's name and number can come back with other content; its run and source do not.
        "registered": [registered.run_id, registered.source, registered.created_at.isoformat()],
        "source": ctx.spec.source.model_dump(mode="json"),
        "tolerance": ctx.spec.gates.export_tolerance,
        "serving": ctx.spec.serving.model_dump(mode="json", include={"max_batch_size", "stochastic"}),
        "evaluation": digest_file(evaluation),
        "data": data_key(ctx),
        "tools": tools("onnx", "skl2onnx", "scikit-learn", "onnxruntime"),
    }
    export = partial(_export, ctx, evaluation, registered)
    # A form that is not there may be tomorrow: what it lacks may be this machine's.
    return cast(Exported, ctx.store.memo("export", key, export, keep=lambda value: not value["refused"]))


def _export(ctx: BuildContext, evaluation: Path, registered: ModelVersion) -> Json:
    from model_store.export import export
    from model_store.export.as_logged import export_as_logged

    makers = {ONNX: export, AS_LOGGED: export_as_logged}
    made: dict[str, Exported] = {}
    failed: dict[str, Permanent] = {}
    with ctx.store.scratch() as folder:
        limit = ctx.spec.source.max_size_mb
        source = ctx.registry.download(ctx.ref, folder / "download", max_size_mb=limit)
        require_unchanged(ctx, registered, source.digest)
        lineage = {"mlflow_run_id": registered.run_id, "source_digest": source.digest}
        for form in wanted_forms(ctx.spec):
            try:
                if (refusal := _refusal(ctx, form)) is not None:
                    raise refusal
                exported = makers[form](
                    ctx.ref, ctx.spec, source.folder, folder / form, evaluation=evaluation
                )
                made[form] = _kept(ctx, exported, lineage)
            except Permanent as refused:
                failed[form] = refused
    if not made:
        raise _in_no_form(list(failed.values()))
    return both(ctx, made, {form: _why(refused) for form, refused in failed.items()})


def _refusal(ctx: BuildContext, form: str) -> Permanent | None:
    """Why nobody would serve it in a form that the spec wants."""
    return ctx.refusal("python") if form == AS_LOGGED and form in wanted_forms(ctx.spec) else None


def _why(refused: Permanent) -> str:
    """Why there is no such form beside the one that there is; nobody has to do anything about a model that
    nothing exports.
    """
    from model_store.export import NoConverter

    return refused.problem if isinstance(refused, NoConverter) else f"{refused.problem} ({refused.remedy})"


def _in_no_form(failed: list[Permanent]) -> Permanent:
    """The one reason; of both forms the export's first, for that is what is hoped for, if anything may be."""
    from model_store.export import NoConverter

    if len(failed) == 1:
        return failed[0]
    export, as_logged = failed
    if isinstance(export, NoConverter):
        return as_logged
    return Permanent(
        f"it can neither be exported ({export.problem}) nor served as it was logged ({as_logged.problem})",
        remedy=f"for an export: {export.remedy}; as it was logged: {as_logged.remedy}",
    )


def _kept(ctx: BuildContext, exported: ExportedModel, lineage: dict[str, str]) -> Exported:
    artifact = ctx.store.put(
        exported.path,
        format=exported.format,
        precision=PRECISION_OF[exported.format],
        parent_digest=None,
        toolchain=exported.toolchain,
    )
    answers = ctx.store.put_bytes(exported.answers.read_bytes())
    return {
        "artifact": artifact_record(artifact),
        "answers": {"blob": answers},
        "inputs": tensor_records(exported.inputs),
        "outputs": tensor_records(exported.outputs),
        "columns": dict(exported.columns),
        "agreement": asdict(exported.agreement) | {"detail": _told(exported)},
        "dataset_digest": exported.dataset_digest,
        "says": dict(exported.says),
        "notes": list(exported.notes),
        "invocations": dict(exported.invocations),
        "lineage": lineage,
    }


def require_unchanged(ctx: BuildContext, registered: ModelVersion, digest: str) -> None:
    """A registered version is what it was when it was first seen. MLflow lets its files be overwritten.

    Asked where they are read, and again before what was made of them is signed. Raises `Permanent`.
    """
    key = {
        "model": str(ctx.ref),
        "registered": [registered.run_id, registered.source, registered.created_at.isoformat()],
    }
    first = ctx.store.memo("source", key, lambda: {"source": digest})["source"]
    if first != digest:
        raise Permanent(
            f"the files of {ctx.ref} in MLflow are not those that it had when Slipway first saw it:"
            f" {digest} instead of {first}",
            remedy="register them as a new version; if you did not change them, find out who can write to"
            " MLflow's artifacts",
        )


def _told(exported: ExportedModel) -> str:
    """How far the export is from the original, and what else a person should know of it."""
    return "; ".join([exported.agreement.detail, *exported.notes])
