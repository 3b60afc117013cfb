"""Stage 6: which variant is served."""

from __future__ import annotations

from collections.abc import Sequence

from model_store.build import BuildContext, Chosen, Gated
from model_store.choose import Contender, choose
from model_store.records import read_report


def run(ctx: BuildContext, gated: Sequence[Gated]) -> Chosen:
    """See `model_store.build.choose_stage`."""
    contenders = [_contender(one) for one in gated if one["served"] is not None]
    unavailable = [_sentence(one) for one in gated if one["served"] is None and one["reasons"]]
    choice = choose(contenders, prefer=ctx.spec.prefer, order=ctx.spec.precisions, unavailable=unavailable)
    return {"precision": choice.contender.precision, "reason": choice.reason}


def _contender(gated: Gated) -> Contender:
    served, profile = gated["served"], gated["profile"]
    assert served is not None
    return Contender(
        precision=gated["variant"]["precision"],
        digest=served["digest"],
        report=read_report(gated["report"]),
        latency_ratio=profile["latency_ratio"] if profile else None,
        size_bytes=served["size_bytes"],
    )


def _sentence(gated: Gated) -> str:
    variant = gated["variant"]
    return f"{variant['precision']} for {variant['layout']}: {'; '.join(gated['reasons'])}"
