"""The stages of a build (`model_store.steps`) as Airflow's tasks run them: those of a release."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from model_store import steps
from model_store.stages.base import BuildContext, Gated, Variant
from model_store.steps import StepResult, load_result
from model_store.storage.store import bring, share
from model_store.types import TargetName
from serving.control import bundle_comparison, wiring
from serving.control.releases import Release
from serving.control.wiring import Services
from serving.platforms.base import refusal_of


def build_context(services: Services, release: Release) -> BuildContext:
    return BuildContext(
        store=services.store,
        registry=services.registry,
        spec=release.spec,
        ref=release.ref,
        home=services.home.root,
        refusal=partial(refusal_of, services.platform, release.spec),
    )


def docs_name(release: Release) -> str:
    """What workers of other machines find its Data Docs by."""
    return f"data_docs/{release.model}/v{release.ref.version}"


def export(services: Services, release: Release) -> StepResult:
    return steps.export(build_context(services, release))


def check_data(services: Services, release: Release, exported: str) -> StepResult:
    ctx = build_context(services, release)
    checked = steps.check_data(ctx, exported)
    share(ctx.store, docs_name(release), ctx.docs)
    return checked


def quantize(services: Services, release: Release, exported: str, variant: Variant) -> StepResult:
    return steps.quantize(build_context(services, release), exported, variant)


def compile(services: Services, release: Release, quantized: str, target: TargetName) -> StepResult:
    return steps.compile(build_context(services, release), quantized, target)


def gate(
    services: Services, release: Release, exported: str, quantized: str, compiled: Iterable[str]
) -> StepResult:
    return steps.gate(build_context(services, release), exported, quantized, compiled)


def choose(services: Services, release: Release, gated: Iterable[str]) -> StepResult:
    ctx = build_context(services, release)
    # The data's docs, if another worker wrote them: those of the gates are added.
    bring(ctx.store, docs_name(release), ctx.docs)
    try:
        return steps.choose(ctx, gated)
    finally:
        share(ctx.store, docs_name(release), ctx.docs)


def publish(
    services: Services, release: Release, exported: str, gated: Iterable[str], chosen: str
) -> StepResult:
    """The value is the bundle's id. The release knows it from now on, and how it compares."""
    ctx, results = build_context(services, release), list(gated)
    published = steps.publish(ctx, exported, results, chosen)
    reports: list[Gated] = [load_result(ctx.store, digest) for digest in results]
    precision = load_result(ctx.store, chosen)["precision"]
    compared = bundle_comparison.compare(ctx, services.registry, reports, precision)
    services.releases.built(
        release.id,
        published.value,
        at=wiring.now(),
        gated=results,
        sample=_sample(reports, precision),
        compared=compared,
    )
    return published


def _sample(reports: Iterable[Gated], precision: str) -> str:
    """The digest of the rows and answers that were kept of what is served; empty where none were."""
    served = (one for one in reports if one["variant"]["precision"] == precision and one.get("served"))
    kept = (one.get("sample") for one in served)
    return next((one["blob"] for one in kept if one), "")
