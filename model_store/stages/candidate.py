"""One candidate run on the evaluation rows by the engine that pods would serve it with.

Where that engine cannot run (a TensorRT engine without its GPU) nothing is known of its answers and its
latency, and the report says so. Answers of onnxruntime stand in for it only where the spec allows it, and
every number taken from them says whose they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import cast

from model_store.dataset import Dataset
from model_store.gates.profile import Profile, judge_profile, judge_size, measure
from model_store.gates.reading import Outputs
from model_store.stages.base import BuildContext, Compiled, Exported, Json, Quantized
from model_store.stages.forms import is_as_logged
from model_store.stages.inputs import evaluation_rows
from model_store.stages.reasons import attempt
from model_store.stages.served import EngineNotHere, JudgedModel
from model_store.types import Artifact, Check

ONNX = "onnxruntime"
AS_ONNX = "judged as ONNX, the engine was not run here"
REMEDY = "leave this precision out of `precisions`, or export the model with other operators"


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """What came of it. `outputs`: by name, for every evaluation row, or None where the engine cannot run.
    `note`: what is to be known of every number that is taken from them. `noise`: what of their digits is
    (`model_store.engines.noise`).
    """

    outputs: Outputs | None
    checks: tuple[Check, ...]
    profile: Profile | None
    note: str = ""
    noise: float = 0.0

    def noted(self, checks: Sequence[Check]) -> tuple[Check, ...]:
        """These checks of `outputs`, each with the note."""
        if not self.note:
            return tuple(checks)
        return tuple(replace(one, detail="; ".join(filter(None, (one.detail, self.note)))) for one in checks)


def run_candidate(
    ctx: BuildContext,
    exported: Exported,
    quantized: Quantized,
    built: Sequence[Compiled],
    rows: Dataset,
    *,
    beside: Exported | None = None,
) -> Ran:
    """Answers, latency and size. `beside`: the export that a model as it was logged is measured against.

    Raises `CandidateFailed` with the reason when the candidate cannot do it.
    """
    runtime, gates = ctx.spec.runtime_of(quantized["variant"]["precision"]), ctx.spec.gates
    served = next((one["artifact"] for one in built if one["target"] == runtime), None)
    with attempt(f"running {quantized['variant']['precision']}", otherwise=REMEDY):
        if served is None:
            return _ran_as_onnx(ctx, exported, quantized, built, rows)
        artifact = ctx.store.open(served)
        try:
            return _ran(ctx, exported, artifact, rows, platform=runtime, beside=beside)
        except EngineNotHere as why:
            if not gates.may_judge_as_onnx:
                return Ran(None, _not_run(why), None)
            ran = _ran_as_onnx(ctx, exported, quantized, built, rows)
            return replace(ran, checks=(*_unmeasured(ctx, why), *judge_size(artifact.size_bytes, gates)))


def _ran(
    ctx: BuildContext,
    exported: Exported,
    artifact: Artifact,
    rows: Dataset,
    *,
    platform: str,
    beside: Exported | None,
) -> Ran:
    with _open(ctx, exported, artifact, platform) as served:
        outputs = served.answer(rows.inputs)
        checks = () if ctx.spec.serving.stochastic else (served.alone_as_in_company(rows.inputs),)
        # Before another engine is opened beside it, whose memory nobody could tell from this one's.
        memory = served.gpu_memory_bytes
        profile = _profile(ctx, exported, artifact, served, rows, beside)
        profile = replace(profile, gpu_memory_bytes=memory)
    checked = (*checks, *judge_profile(profile, ctx.spec.gates))
    return Ran(outputs, checked, profile, noise=served.noise)


def _ran_as_onnx(
    ctx: BuildContext, exported: Exported, quantized: Quantized, built: Sequence[Compiled], rows: Dataset
) -> Ran:
    """By onnxruntime: the ONNX file that the engine was built from, or what was compiled of it."""
    compiled = next((one["artifact"] for one in built if one["target"] == ONNX), None)
    artifact = ctx.store.open(cast(Json, compiled or quantized["artifact"]))
    with _open(ctx, exported, artifact, ONNX) as served:
        return Ran(served.answer(rows.inputs), (), None, note=AS_ONNX, noise=served.noise)


@contextmanager
def _open(ctx: BuildContext, exported: Exported, artifact: Artifact, platform: str) -> Iterator[JudgedModel]:
    with closing(JudgedModel.of_artifact(ctx, exported, artifact, platform=platform)) as served:
        yield served


def _profile(
    ctx: BuildContext,
    exported: Exported,
    artifact: Artifact,
    served: JudgedModel,
    rows: Dataset,
    beside: Exported | None,
) -> Profile:
    """Beside the fp32 ONNX model, which the same pods would serve with the same settings."""
    compared = beside or exported
    if is_as_logged(compared):
        return _beside_itself(_measured(served, served, artifact, rows, rows))
    same = evaluation_rows(ctx, beside) if beside else rows
    with _open(ctx, compared, ctx.store.open(compared["artifact"]), ONNX) as baseline:
        return _measured(served, baseline, artifact, rows, same)


def _beside_itself(profile: Profile) -> Profile:
    """Of a model that is served as it is: there is nothing faster or slower to compare it with."""
    return replace(
        profile,
        baseline_p50_ms=profile.p50_ms,
        latency_ratio=1.0,
        latency_interval=(1.0, 1.0),
        throughput_ratio=1.0,
    )


def _measured(
    served: JudgedModel, baseline: JudgedModel, artifact: Artifact, rows: Dataset, same: Dataset
) -> Profile:
    """`same`: the rows as the baseline takes them."""
    return measure(
        served.run,
        baseline.run,
        served.encoded(rows.inputs),
        baseline_rows=baseline.encoded(same.inputs),
        artifact=artifact,
        max_batch_size=served.largest_batch,
    )


def _not_run(why: EngineNotHere) -> tuple[Check, ...]:
    detail = (
        f"{why.problem}, so nothing is known of its answers: {why.remedy}, or let onnxruntime's answers stand"
        " for them with gates.may_judge_as_onnx: true"
    )
    return (Check("engine was run", 0.0, 1.0, passed=False, detail=detail, direction="at_least"),)


def _unmeasured(ctx: BuildContext, why: EngineNotHere) -> tuple[Check, ...]:
    """A limit on latency that cannot be measured blocks, rather than guess."""
    latency = ctx.spec.gates.latency
    if latency.max_p99_ms is None and latency.max_ratio is None:
        return ()
    detail = f"{why.problem}, so its latency is unknown"
    return (Check("latency measured", 0.0, 1.0, passed=False, detail=detail, direction="at_least"),)
