"""Stage 6: which variant is served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from model_store.gates.choose import Contender, choose
from model_store.records import read_report
from model_store.stages.base import BuildContext, Chosen, Gated, Json
from model_store.stages.inputs import tools


def run(ctx: BuildContext, gated: Sequence[Gated]) -> Chosen:
    """See `model_store.build.choose_stage`."""
    key = {
        "gated": list(gated),
        "prefer": ctx.spec.prefer,
        "order": list(ctx.spec.precisions),
        "tools": tools("great-expectations"),
    }
    chosen = ctx.store.memo("choose", key, lambda: _choose(ctx, gated))
    # Only its memo may have survived: the docs are not in the store.
    return cast(Chosen, chosen if ctx.docs.joinpath("index.html").exists() else _choose(ctx, gated))


def _choose(ctx: BuildContext, gated: Sequence[Gated]) -> Json:
    _document(ctx, gated)
    contenders = [_contender(one) for one in gated if one["served"] is not None]
    unavailable = [_sentence(one) for one in gated if one["served"] is None and one["reasons"]]
    choice = choose(contenders, prefer=ctx.spec.prefer, order=ctx.spec.precisions, unavailable=unavailable)
    return {"precision": choice.contender.precision, "reason": choice.reason}


def _document(ctx: BuildContext, gated: Sequence[Gated]) -> None:
    """Data Docs of all variants at once: Great Expectations takes seconds to import."""
    from model_store.gates.expectations import validate_checks

    reports = {_name(one): read_report(one["report"]).checks for one in gated}
    validate_checks({name: checks for name, checks in reports.items() if checks}, ctx.docs)


def _contender(gated: Gated) -> Contender:
    served, profile = gated["served"], gated["profile"]
    assert served is not None
    return Contender(
        precision=gated["variant"]["precision"],
        digest=served["digest"],
        report=read_report(gated["report"]),
        latency_ratio=profile["latency_ratio"] if profile else None,
        size_bytes=served["size_bytes"],
        latency_interval=_interval(profile) if profile else None,
    )


def _interval(profile: Json) -> tuple[float, float]:
    low, high = profile["latency_interval"]
    return low, high


def _sentence(gated: Gated) -> str:
    return f"{_name(gated)}: {'; '.join(gated['reasons'])}"


def _name(gated: Gated) -> str:
    variant = gated["variant"]
    return f"{variant['precision']} for {variant['layout']}"
