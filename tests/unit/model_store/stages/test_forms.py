"""A version as a candidate in two forms: which there are, and why one is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from model_store.build import build_bundle, export_stage, quantize_stage, variants
from model_store.errors import Permanent
from model_store.release_spec import Outputs
from model_store.stages.base import BuildContext, Exported
from model_store.stages.forms import in_words_of
from model_store.storage.store import Store
from tests.build_world import a_world, hurry, with_spec
from tests.small_models import Credit


@pytest.fixture
def world(store: Store, credit: Credit, monkeypatch: pytest.MonkeyPatch) -> BuildContext:
    hurry(monkeypatch)
    return a_world(store, credit)


BOTH: dict[str, Any] = {"source": {"allow": ["pyfunc"]}, "precisions": ["fp32", "original"]}


def refused_by_pods(ctx: BuildContext, why: str) -> BuildContext:
    return replace(ctx, refusal=lambda engine: Permanent(why, remedy="none") if engine == "python" else None)


def why_not_as_logged(ctx: BuildContext) -> str:
    exported = export_stage(ctx)
    return quantize_stage(ctx, exported, variants(ctx.spec)[1])["reason"]


def test_what_no_pod_would_serve_is_no_candidate_and_the_export_is_left(world: BuildContext) -> None:
    ctx = refused_by_pods(with_spec(world, **BOTH), "pods here have one Python")
    assert why_not_as_logged(ctx) == "cannot be served as it was logged: pods here have one Python (none)"
    assert '"precision": "fp32"' in (build_bundle(ctx).path / "manifest.json").read_text()


def test_what_no_pod_would_serve_ends_a_build_that_has_nothing_else(world: BuildContext) -> None:
    alone = with_spec(
        world, source={"flavor": "pyfunc", "allow": ["pyfunc"]}, precisions=["original"], targets=["python"]
    )
    with pytest.raises(Permanent, match="pods here have one Python"):
        export_stage(refused_by_pods(alone, "pods here have one Python"))


def test_exports_ask_no_platform_about_python(world: BuildContext) -> None:
    exported = export_stage(refused_by_pods(world, "not asked for"))
    assert exported.get("refused") == {}


def test_a_form_that_is_not_there_is_tried_again(
    world: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = with_spec(world, **BOTH)
    for why in ("no Python 3.9 here", "no uv here"):

        def fail(*_: object, why: str = why, **__: object) -> None:
            raise Permanent(why, remedy="install it")

        monkeypatch.setattr("model_store.export.as_logged.export_as_logged", fail)
        assert why in why_not_as_logged(ctx)


def form(kind: str, *outputs: str) -> Exported:
    return cast(Exported, {"artifact": {"format": kind}, "outputs": [{"name": name} for name in outputs]})


def test_beside_exports_the_other_form_is_read_in_its_own_words_at_the_same_threshold(
    world: BuildContext,
) -> None:
    ctx = with_spec(world, **BOTH, outputs={"scores": "probabilities", "threshold": 0.3})
    assert in_words_of(ctx, form("mlflow", "prediction")).spec.outputs == Outputs(threshold=0.3)
    assert in_words_of(ctx, form("mlflow", "probabilities")) is ctx
    # A name that an export lacks is a mistake, to be told.
    assert in_words_of(ctx, form("onnx", "prediction")) is ctx
