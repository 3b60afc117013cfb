"""A version whose signature would break callers of the one that serves is refused on the way to a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from model_store.bundle.publishing import open_signature
from model_store.gates.choose import NothingPassed
from model_store.gates.signature import VersionSignature
from model_store.signing import NotSigned
from model_store.stages.base import BuildContext, Gated
from model_store.storage.base import Corrupt, Missing
from model_store.storage.store import Store
from model_store.types import Bundle, ModelRef, TensorSpec
from tests.build_world import REF, Registry, a_world, built, edited, failed, gated, hurry, with_spec
from tests.small_models import Credit

NAME = "signature against champion v2"
GATES: dict[str, Any] = {"accuracy": {"max_drop": 0.01}, "auc": None}


@pytest.fixture
def world(store: Store, credit: Credit, monkeypatch: pytest.MonkeyPatch) -> BuildContext:
    hurry(monkeypatch)
    return with_spec(a_world(store, credit), gates=GATES, precisions=["fp32"])


def renamed(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.input[:] = ["x" if name == "input" else name for name in node.input]
    model.graph.input[0].name = "x"


def more_answers(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["probabilities"], ["again"]))
    model.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, ["N", 2]))


def fewer_answers(model: onnx.ModelProto) -> None:
    del model.graph.output[0]


def succeeding(world: BuildContext, credit: Credit, edit: Any, serving: Bundle, **gates: Any) -> BuildContext:
    """Version 3, made by `edit`, while version 2 serves."""
    registry = Registry({2: credit.onnx, 3: edited(credit, edit)}, champion=(2, serving.id))
    ctx = with_spec(world, gates={**GATES, **gates}, precisions=["fp32"])
    return replace(ctx, registry=registry, ref=ModelRef("credit_risk", 3))


def check_of(gated: Gated) -> dict[str, Any]:
    return next(check for check in gated["report"]["checks"] if check["name"].startswith("signature"))


@pytest.mark.parametrize("gates", [{}, {"champion": {"max_drop": 0.02}}])
def test_an_input_of_another_name_blocks_and_says_what_changed_and_what_to_do(
    world: BuildContext, credit: Credit, gates: dict[str, Any]
) -> None:
    """Also where accuracies are to be compared, which a champion that takes other inputs cannot be."""
    ctx = succeeding(world, credit, renamed, built(world), **gates)
    with pytest.raises(NothingPassed) as refused:
        built(ctx)
    assert f"fp32: {NAME} 2, limit 0, missed by 2 (" in refused.value.problem
    assert "input input FP32[-1, 29] is gone; input x FP32[-1, 29] is new" in refused.value.problem
    assert "gates.signature.may_break: 2" in refused.value.problem
    assert failed(gated(ctx)[0]) == [NAME]


def test_an_answer_that_is_gone_blocks(world: BuildContext, credit: Credit) -> None:
    assert failed(gated(succeeding(world, credit, fewer_answers, built(world)))[0]) == [NAME]


def test_every_variant_is_compared_and_one_more_answer_breaks_nobody(
    world: BuildContext, credit: Credit
) -> None:
    ctx = succeeding(world, credit, more_answers, built(world))
    ctx = replace(ctx, spec=ctx.spec.model_copy(update={"precisions": ("int8", "fp16", "fp32")}))
    assert [check_of(one)["name"] for one in gated(ctx)] == [NAME] * 3
    assert NAME in [check.name for check in built(ctx).report.checks]


def test_the_champions_manifest_is_read_once_for_a_variant(
    world: BuildContext, credit: Credit, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = succeeding(world, credit, more_answers, built(world), champion={"max_drop": 0.02})
    read: list[str] = []

    def counted(store: Store, bundle_id: str) -> VersionSignature:
        read.append(bundle_id)
        return open_signature(store, bundle_id)

    monkeypatch.setattr("model_store.stages.gate.open_signature", counted)
    assert failed(gated(ctx)[0]) == []
    assert len(read) == 1


def test_a_planned_break_is_written_in_the_spec_for_the_version_it_leaves(
    world: BuildContext, credit: Credit
) -> None:
    champion = built(world)
    ctx = succeeding(world, credit, renamed, champion, signature={"may_break": 2})
    bundle = built(ctx)
    assert "input x FP32[-1, 29]" in check_of(gated(ctx)[0])["detail"]
    assert open_signature(ctx.store, bundle.id).inputs == (TensorSpec("x", "FP32", (-1, 29)),)
    with pytest.raises(NothingPassed, match=NAME):
        built(succeeding(world, credit, renamed, champion, signature={"may_break": 1}))


def test_a_planned_break_leaves_no_limit_unmeasured(world: BuildContext, credit: Credit) -> None:
    gates = {"signature": {"may_break": 2}, "champion": {"max_drop": 0.02}}
    ctx = succeeding(world, credit, renamed, built(world), **gates)
    with pytest.raises(NothingPassed, match=r"champion measured .*v2 takes other inputs.*gates\.champion"):
        built(ctx)


def test_who_serves_now_decides_not_what_was_remembered(world: BuildContext, credit: Credit) -> None:
    champion = built(world)
    ctx = succeeding(world, credit, renamed, champion)
    registry = ctx.registry
    assert isinstance(registry, Registry)
    registry.champion = None
    assert built(ctx).model == ctx.ref
    registry.champion = (2, champion.id)
    with pytest.raises(NothingPassed, match=NAME):
        built(ctx)


def test_the_first_release_and_the_champion_itself_are_compared_with_nothing(
    world: BuildContext, credit: Credit
) -> None:
    champion = built(world)
    assert not [check for check in champion.report.checks if "signature" in check.name]
    again = replace(world, registry=Registry({2: credit.onnx}, champion=(2, champion.id)))
    assert built(again).model == REF


def test_a_signature_is_read_only_from_a_manifest_that_was_signed(world: BuildContext) -> None:
    bundle = built(world)
    found = open_signature(world.store, bundle.id)
    assert (found.version, found.inputs) == (2, (TensorSpec("input", "FP32", (-1, 29)),))
    assert [output.name for output in found.outputs] == ["label", "probabilities"]
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    other = "0" * 24
    _put(world.store.bundle_path(other), manifest)
    with pytest.raises(Corrupt, match=f"holds the bundle {bundle.id}"):
        open_signature(world.store, other)
    _put(world.store.bundle_path("1" * 24), {**manifest, "inputs": []})
    with pytest.raises(NotSigned):
        open_signature(world.store, "1" * 24)
    with pytest.raises(Missing):
        open_signature(world.store, "2" * 24)


def _put(folder: Path, manifest: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(manifest))
