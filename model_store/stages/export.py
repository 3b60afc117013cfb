"""Stage 1: the registered version as one file (ONNX, or itself), with the original's own answers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from model_store.build import BuildContext, Exported, Json
from model_store.durable import digest_file
from model_store.errors import Permanent
from model_store.records import artifact_record, tensor_records
from model_store.stages.inputs import data_key, evaluation_path, tools

if TYPE_CHECKING:
    from model_store.export import ExportedModel
    from model_store.registry import ModelVersion

PRECISION_OF = {"onnx": "fp32", "mlflow": "original"}


def run(ctx: BuildContext) -> Exported:
    """See `model_store.build.export_stage`."""
    ctx.store.sweep()
    registered = ctx.registry.describe(ctx.ref)
    evaluation = evaluation_path(ctx)
    key = {
        # Of what is kept of an export: what an older Slipway kept lacks something.
        "schema": 2,
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
    return cast(Exported, ctx.store.memo("export", key, lambda: _export(ctx, evaluation, registered)))


def _export(ctx: BuildContext, evaluation: Path, registered: ModelVersion) -> Json:
    from model_store.export import export
    from model_store.export.as_logged import export_as_logged

    make = export_as_logged if ctx.spec.is_served_as_logged else export
    with ctx.store.scratch() as folder:
        limit = ctx.spec.source.max_size_mb
        source = ctx.registry.download(ctx.ref, folder / "download", max_size_mb=limit)
        _require_unchanged(ctx, registered, source.digest)
        exported = make(ctx.ref, ctx.spec, source.folder, folder / "out", evaluation=evaluation)
        artifact = ctx.store.put(
            exported.path.read_bytes(),
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
        "lineage": {"mlflow_run_id": registered.run_id, "source_digest": source.digest},
    }


def _require_unchanged(ctx: BuildContext, registered: ModelVersion, digest: str) -> None:
    """A registered version is what it was when it was first seen. MLflow lets its files be overwritten."""
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
