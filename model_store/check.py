"""What would become of a version: the build's own stages, with nothing published and nobody served.

`slipway check` is a thin shell around this. The stages are those that Airflow runs (`model_store.build`), so
a version that passes here passes there on the same machine, rows and spec.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from model_store.build import (
    check_data_stage,
    choose_stage,
    compile_stage,
    export_stage,
    gate_stage,
    publish_stage,
    quantize_stage,
    variants,
)
from model_store.errors import Permanent
from model_store.gates.choose import NothingPassed
from model_store.records import read_report, report_record
from model_store.registry import Downloaded, ModelVersion
from model_store.registry.artifacts import describe
from model_store.release_spec import ReleaseSpec
from model_store.stages.base import BuildContext, Exported, Gated
from model_store.stages.gate import judged_of
from model_store.types import Check, GateReport, ModelRef, Precision, TargetName

Json = dict[str, Any]
Ending = Literal["published", "blocked", "refused"]
Tell = Callable[[str], None]

CHAMPION, CANDIDATE = 1, 2


class FolderVersions:
    """Model folders as MLflow saves them (`mlflow.<flavour>.save_model`), in place of a registry."""

    def __init__(self, folders: Mapping[int, Path]) -> None:
        self._folders = folders
        self._bundles: dict[int, str] = {}

    def serve(self, version: int, bundle_id: str) -> None:
        """From now on this version is the champion, released as this bundle."""
        self._bundles = {version: bundle_id}

    def describe(self, ref: ModelRef) -> ModelVersion:
        """See `Versions`. A folder has no run; its content is its source."""
        digest = describe(self._folder(ref)).digest
        tags = {"slipway.bundle": self._bundles[ref.version]} if ref.version in self._bundles else {}
        return ModelVersion(ref, "", digest, "", datetime.fromtimestamp(0, UTC), tags, ())

    def download(self, ref: ModelRef, folder: Path, *, max_size_mb: float) -> Downloaded:
        """See `Versions`. Raises `Permanent` above the limit."""
        source = self._folder(ref)
        found = describe(source)
        if found.size_bytes > max_size_mb * 1e6:
            raise Permanent(
                f"{source} holds {found.size_bytes / 1e6:.1f} MB, the limit is {max_size_mb:g} MB",
                remedy="make the model smaller, or raise source.max_size_mb in the spec",
            )
        shutil.copytree(source, folder)
        return Downloaded(folder, found.digest, found.size_bytes)

    def aliases(self, name: str) -> dict[str, int]:
        """The champion alone: what else a registry knows, no folder says."""
        return dict.fromkeys(["champion"], next(iter(self._bundles))) if self._bundles else {}

    def _folder(self, ref: ModelRef) -> Path:
        folder = self._folders[ref.version]
        if not (folder / "MLmodel").is_file():
            raise Permanent(
                f"{folder} is no MLflow model: it has no file MLmodel",
                remedy="name the folder that mlflow.<flavour>.save_model wrote, or models:/NAME/VERSION",
            )
        return folder


@dataclass(frozen=True, slots=True)
class CandidateReport:
    """One precision and layout. `reasons`: why it does not exist; `checks`: what its gates said."""

    name: str
    precision: Precision
    passed: bool
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    size_bytes: int | None
    latency_ratio: float | None


@dataclass(slots=True)
class Result:
    """How far the stages came. `problem` and `remedy` say why it is not "published"."""

    ref: ModelRef
    ending: Ending = "refused"
    stage: str = "export"
    problem: str = ""
    remedy: str = ""
    agreement: Check | None = None
    data: tuple[Check, ...] = ()
    candidates: list[CandidateReport] = field(default_factory=list)
    precision: str = ""
    reason: str = ""


def check(ctx: BuildContext, *, tell: Tell = lambda stage: None) -> Result:
    """Run every stage up to the choice of what would be served. `tell` hears of each stage as it begins.

    A version that cannot be released is an answer, not an exception. Raises `Retryable` alone: nothing is
    known while MLflow does not answer.
    """
    result = Result(ctx.ref)
    try:
        _run(ctx, result, tell)
    except NothingPassed as blocked:
        result.ending, result.problem, result.remedy = "blocked", blocked.problem, blocked.remedy
    except Permanent as refused:
        result.problem, result.remedy = refused.problem, refused.remedy
    return result


def _run(ctx: BuildContext, result: Result, tell: Tell) -> None:
    def begin(stage: str) -> None:
        result.stage = stage
        tell(stage)

    begin("export")
    exported = export_stage(ctx)
    result.agreement = Check(**exported["agreement"])
    begin("check data")
    result.data = tuple(Check(**one) for one in check_data_stage(ctx, exported)["checks"])
    gated: list[Gated] = []
    for variant in variants(ctx.spec):
        name = f"{variant['precision']} for {variant['layout']}"
        begin(f"quantize {name}")
        quantized = quantize_stage(ctx, exported, variant)
        begin(f"compile {name}")
        targets = ctx.spec.targets_of(variant["precision"])
        compiled = [compile_stage(ctx, quantized, target) for target in targets]
        begin(f"gate {name}")
        gated.append(gate_stage(ctx, exported, quantized, compiled))
        result.candidates.append(_candidate(name, gated[-1]))
    begin("choose")
    chosen = choose_stage(ctx, gated)
    result.ending, result.precision, result.reason = "published", chosen["precision"], chosen["reason"]


def _candidate(name: str, gated: Gated) -> CandidateReport:
    report, served, profile = read_report(gated["report"]), gated["served"], gated["profile"]
    return CandidateReport(
        name,
        gated["variant"]["precision"],
        passed=served is not None and report.passed,
        reasons=tuple(gated["reasons"]),
        checks=report.checks,
        size_bytes=served["size_bytes"] if served else None,
        latency_ratio=profile["latency_ratio"] if profile else None,
    )


def release_champion(ctx: BuildContext, versions: FolderVersions) -> None:
    """Make the folder of `ctx.ref` the champion, as fp32, or as it was logged where the spec wants that
    and it is not exported: it is given, so no gate judges it.

    Raises `Permanent` when it can be had in neither form.
    """
    spec = ctx.spec if ctx.spec.is_served_as_logged else _alone(ctx.spec, "fp32", "onnxruntime")
    champion = replace(ctx, registry=versions, spec=spec)
    try:
        exported = export_stage(champion)
    except Permanent:
        if ctx.spec.is_served_as_logged or "original" not in ctx.spec.precisions:
            raise
        champion = replace(champion, spec=_alone(ctx.spec, "original", "python"))
        exported = export_stage(champion)
    gated = _taken(champion, exported)
    chosen = {"precision": gated["variant"]["precision"], "reason": "named as the champion"}
    published = publish_stage(champion, exported, [gated], cast(Any, chosen))
    versions.serve(ctx.ref.version, published["bundle"])


def _alone(spec: ReleaseSpec, precision: Precision, target: TargetName) -> ReleaseSpec:
    serving = spec.serving.model_copy(update={"runtime": target})
    return spec.model_copy(update={"precisions": (precision,), "targets": (target,), "serving": serving})


def _taken(ctx: BuildContext, exported: Exported) -> Gated:
    variant = variants(ctx.spec)[0]
    quantized = quantize_stage(ctx, exported, variant)
    compiled = compile_stage(ctx, quantized, ctx.spec.serving.runtime)
    if compiled["artifact"] is None:
        raise Permanent(f"the champion cannot be run: {compiled['reason']}", remedy="name another champion")
    taken = Check("taken as the champion", observed=0.0, limit=0.0, passed=True)
    return {
        "variant": variant,
        "report": report_record(GateReport(exported["dataset_digest"], (taken,))),
        "profile": None,
        "served": compiled["artifact"],
        "sample": None,
        "engines": [],
        "quantized": quantized["artifact"],
        "reasons": [],
        "judged": judged_of(ctx, exported),
    }
