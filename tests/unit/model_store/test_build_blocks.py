"""Every gate is seen to block, and bad input to be refused, on the way to a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from model_store import build
from model_store.build import variants
from model_store.bundle.publishing import load_bundle, open_bundle
from model_store.errors import Permanent, Retryable
from model_store.gates.choose import NothingPassed
from model_store.inference import open_session
from model_store.quantize import Search
from model_store.release_spec import Gates, LatencyLimit, Margin, SizeLimit
from model_store.signing import NotSigned, distrust_older, rotate
from model_store.stages import served
from model_store.stages.base import BuildContext
from model_store.storage.store import Store
from model_store.types import ModelRef
from tests.build_world import (
    REF,
    Registry,
    a_world,
    built,
    edited,
    failed,
    gated,
    hurry,
    no_gpu,
    with_engines,
    with_spec,
)
from tests.small_models import Credit


@pytest.fixture
def world(store: Store, credit: Credit, monkeypatch: pytest.MonkeyPatch) -> BuildContext:
    hurry(monkeypatch)
    return a_world(store, credit)


# every gate is seen to block


def test_a_version_worse_than_the_minimum_is_blocked_with_the_numbers(world: BuildContext) -> None:
    ctx = with_spec(world, gates={"accuracy": {"max_drop": 0.01}, "auc": {"max_drop": 0.01, "min": 0.99}})
    with pytest.raises(NothingPassed, match=r"auc minimum 0\.84\d*, limit 0\.99, missed by 0\.1"):
        built(ctx)


def test_int8_that_lost_too_much_is_passed_over_for_fp16(
    world: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Naive quantization of everything, which is what the search exists to prevent."""
    from model_store.quantize import int8

    monkeypatch.setattr(int8, "HEAVY", ("Sub", "Mul", *int8.HEAVY))
    everything = lambda **_: Search(max_changed=1.0)  # noqa: E731
    monkeypatch.setattr("model_store.stages.quantize.Search", everything)
    reports = gated(world)
    assert "accuracy non-inferiority" in failed(reports[0])
    assert build.choose_stage(world, reports)["precision"] == "fp16"


def test_losing_to_the_champion_blocks(world: BuildContext, credit: Credit) -> None:
    champion = built(world)

    def blunt(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == "coefficient2":
                weights = numpy_helper.to_array(tensor) * np.random.default_rng(0).normal(size=(256, 1))
                tensor.CopyFrom(numpy_helper.from_array(weights.astype(np.float32), tensor.name))

    registry = Registry({2: credit.onnx, 3: edited(credit, blunt)}, champion=(2, champion.id))
    # It answers the same to every row, which would be refused before anything is compared.
    gates = {"accuracy": {"max_drop": 0.01}, "auc": None, "must_beat_trivial": False}
    worse = replace(with_spec(world, gates=gates), registry=registry, ref=ModelRef("credit_risk", 3))
    with pytest.raises(NothingPassed, match="accuracy against champion v2 guard"):
        built(worse)
    assert built(with_spec(worse, gates={**gates, "champion": None})).model == worse.ref
    ctx = with_spec(worse, gates={**gates, "champion": {"max_drop": 0.02}})
    with pytest.raises(NothingPassed, match="accuracy against champion v2 non-inferiority"):
        built(ctx)
    assert built(replace(ctx, ref=REF)).model == REF
    # The worse one passed when nobody served yet; who serves now decides, not what was remembered then.
    registry.champion = None
    assert built(ctx).model == ctx.ref
    registry.champion = (2, champion.id)
    with pytest.raises(NothingPassed):
        built(ctx)


def test_a_champion_whose_bytes_changed_ends_the_build_though_the_spec_names_no_champion(
    world: BuildContext, credit: Credit
) -> None:
    champion = built(world)
    registry = Registry({2: credit.onnx, 3: credit.onnx}, champion=(2, champion.id))
    (file,) = champion.path.rglob("model.onnx")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(Permanent, match="not what"):
        built(replace(world, registry=registry, ref=ModelRef("credit_risk", 3)))


def test_the_champion_is_released_again_when_its_bundle_is_not_trusted_and_others_after_it(
    world: BuildContext, credit: Credit
) -> None:
    champion = built(world)
    rotate(world.store.keys)
    distrust_older(world.store.keys)
    registry = Registry({2: credit.onnx, 3: credit.onnx}, champion=(2, champion.id))
    gates = {"accuracy": {"max_drop": 0.01}, "auc": None, "champion": {"max_drop": 0.02}}
    ctx = replace(with_spec(world, gates=gates), registry=registry)
    newer = replace(ctx, ref=ModelRef("credit_risk", 3))
    with pytest.raises(NotSigned):
        built(newer)
    again = built(ctx)
    assert open_bundle(world.store, again.id).id == again.id
    registry.champion = (2, again.id)
    assert built(newer).model == newer.ref


def test_the_first_release_has_no_champion_to_lose_to(world: BuildContext) -> None:
    gates = {"accuracy": {"max_drop": 0.01}, "auc": None, "champion": {"max_drop": 0.01}}
    assert built(with_spec(world, gates=gates)).model == REF


@pytest.mark.parametrize(
    ("gates", "name"),
    [
        (Gates(size=SizeLimit(max_mb=0.001)), "size MB"),
        (Gates(latency=LatencyLimit(max_p99_ms=1e-6)), "latency p99 ms"),
        (Gates(latency=LatencyLimit(max_ratio=1e-6)), "latency ratio"),
        (Gates(accuracy=Margin(max_drop=0.0001)), "accuracy non-inferiority"),
    ],
)
def test_each_limit_blocks(world: BuildContext, gates: Gates, name: str) -> None:
    ctx = replace(world, spec=world.spec.model_copy(update={"gates": gates}))
    reports = gated(ctx)
    assert all(name in failed(one) for one in reports if one["served"])
    with pytest.raises(NothingPassed, match=name):
        build.choose_stage(ctx, reports)


def test_a_failed_measurement_is_made_again_when_the_task_is_cleared(world: BuildContext) -> None:
    strict = Gates(latency=LatencyLimit(max_p99_ms=1e-6))
    ctx = replace(world, spec=world.spec.model_copy(update={"gates": strict}))
    first, second = gated(ctx)[0], gated(ctx)[0]
    assert failed(first) == failed(second) == ["latency p99 ms"]
    assert first["profile"] != second["profile"]


def test_engines_of_a_variant_that_failed_are_not_published(world: BuildContext) -> None:
    ctx = with_engines(world)
    exported, reports = build.export_stage(ctx), gated(ctx)
    spoiled = json.loads(json.dumps(reports))
    for one in spoiled:
        if one["variant"] == {"precision": "int8", "layout": "tensorrt"}:
            one["report"]["checks"][0]["passed"] = False
    published = build.publish_stage(ctx, exported, spoiled, build.choose_stage(ctx, spoiled))
    bundle = load_bundle(world.store.bundle_path(published["bundle"]))
    assert [artifact.format for artifact in bundle.artifacts] == ["onnx"]


RTX: dict[str, Any] = {
    "precisions": ["fp32"],
    "targets": ["tensorrt_rtx"],
    "serving": {"runtime": "tensorrt_rtx"},
}


class Engine:
    """The engine of a GPU played by onnxruntime, right or with its scores turned round."""

    platform = "tensorrt_rtx"
    profiles = (1, 4, 32)

    def __init__(self, model: bytes, *, is_right: bool) -> None:
        self._session, self._is_right = open_session(model), is_right
        self.batches: set[int] = set()

    def run(self, inputs):
        self.batches.add(len(inputs[0]))
        label, scores = self._session.run(None, {"input": inputs[0]})
        return [label, scores] if self._is_right else [1 - label, scores[:, ::-1].copy()]

    def staging(self, rows: int) -> None:
        return None

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


@pytest.mark.parametrize("is_right", [True, False])
def test_accuracy_and_latency_are_those_of_the_engine_that_serves(
    world: BuildContext, credit: Credit, monkeypatch: pytest.MonkeyPatch, is_right: bool
) -> None:
    engine = Engine(credit.onnx, is_right=is_right)
    real = served.open_engine
    monkeypatch.setattr(served, "open_engine", lambda m: real(m) if m.platform == "onnxruntime" else engine)
    (made,) = gated(with_spec(world, **RTX))
    assert made["profile"] is not None
    # 1,335 rows end with a batch of 23, which pods fill up to a size that the engine was built for.
    assert engine.batches == {1, 32}
    wrong = ["accuracy non-inferiority", "auc non-inferiority", "balanced_accuracy guard"]
    assert [name for name in failed(made) if "[" not in name] == ([] if is_right else wrong)


@no_gpu
def test_an_engine_that_cannot_run_here_blocks_rather_than_pass_by_anothers_answers(
    world: BuildContext,
) -> None:
    (made,) = gated(with_spec(world, **RTX))
    assert failed(made) == ["engine was run"]
    assert [check["name"] for check in made["report"]["checks"]] == ["engine was run"]
    said = made["report"]["checks"][0]["detail"]
    assert said.startswith("tensorrt_rtx was not run on this machine: ")
    assert "so nothing is known of its answers" in said
    assert "gates.may_judge_as_onnx: true" in said


@no_gpu
def test_onnx_may_stand_for_an_engine_that_cannot_run_here_and_every_number_says_so(
    world: BuildContext,
) -> None:
    gates = {"accuracy": {"max_drop": 0.01}, "size": {"max_mb": 100}, "may_judge_as_onnx": True}
    ctx = with_spec(world, **RTX, gates=gates, prefer="latency")
    (made,) = gated(ctx)
    assert failed(made) == []
    for check in made["report"]["checks"]:
        is_of_answers = check["name"] != "size MB"
        assert ("judged as ONNX, the engine was not run here" in check["detail"]) is is_of_answers
    assert built(ctx).artifacts[0].format == "tensorrt_rtx"
    chosen = build.choose_stage(ctx, [made])
    assert "latency was not measured" in chosen["reason"]


@no_gpu
def test_a_limit_on_the_latency_of_an_engine_that_cannot_run_here_blocks(world: BuildContext) -> None:
    gates = {"accuracy": {"max_drop": 0.01}, "latency": {"max_p99_ms": 20}, "may_judge_as_onnx": True}
    with pytest.raises(NothingPassed, match=r"latency measured .*tensorrt_rtx was not run on this machine"):
        built(with_spec(world, **RTX, gates=gates))


# bad input


def test_a_model_that_answers_nan_is_blocked(world: BuildContext, credit: Credit) -> None:
    def poison(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == "intercepts2":
                tensor.CopyFrom(numpy_helper.from_array(np.array([[np.nan]], np.float32), tensor.name))

    ctx = replace(world, registry=Registry({2: edited(credit, poison)}))
    with pytest.raises(Permanent, match=r"(?i)nan"):
        built(ctx)


@pytest.mark.parametrize("content", [b"", b"\x00garbage"])
def test_a_file_that_is_no_model_is_refused(world: BuildContext, content: bytes) -> None:
    with pytest.raises(Permanent):
        build.export_stage(replace(world, registry=Registry({2: content})))


def test_a_truncated_model_is_refused(world: BuildContext, credit: Credit) -> None:
    with pytest.raises(Permanent):
        build.export_stage(replace(world, registry=Registry({2: credit.onnx[: len(credit.onnx) // 2]})))


def test_a_model_that_takes_other_inputs_is_refused(world: BuildContext, credit: Credit) -> None:
    def narrow(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 12

    with pytest.raises(Permanent, match=r"29|12"):
        build.export_stage(replace(world, registry=Registry({2: edited(credit, narrow)})))


def test_a_missing_data_file_is_named(world: BuildContext, tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=r"evaluation\.parquet is not there\n  remedy: .*data\.evaluation"):
        build.export_stage(replace(world, home=tmp_path))


@pytest.mark.parametrize("stage", ["export", "gate"])
def test_mlflow_down_is_worth_another_try_and_nothing_is_half_made(world: BuildContext, stage: str) -> None:
    registry = Registry(world.registry.models)
    gates = {"accuracy": {"max_drop": 0.01}, "auc": None, "champion": {"max_drop": 0.01}}
    ctx = replace(with_spec(world, gates=gates), registry=registry)
    if stage == "gate":
        exported = build.export_stage(ctx)
        quantized = build.quantize_stage(ctx, exported, variants(ctx.spec)[-1])
        registry.down = True
        with pytest.raises(Retryable):
            build.gate_stage(ctx, exported, quantized, [])
    else:
        registry.down = True
        with pytest.raises(Retryable):
            build.export_stage(ctx)
    assert not list(world.store.root.glob("bundles/*"))
    assert not list(world.store.root.glob("tmp/*"))
    registry.down = False
    assert built(ctx).model == REF


def test_a_variant_that_cannot_be_is_a_reason_and_others_go_on(world: BuildContext, credit: Credit) -> None:
    """A model of one element-wise operator: nothing to quantize, nothing wrong with fp32."""

    def logistic(model: onnx.ModelProto) -> None:
        rng = np.random.default_rng(0)
        column = rng.normal(size=(29,)).astype(np.float32)
        del model.graph.node[:], model.graph.initializer[:], model.graph.output[1:]
        model.graph.initializer.append(numpy_helper.from_array(column, "w"))
        model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
        model.graph.node.extend(
            [
                helper.make_node("Mul", ["input", "w"], ["m"]),
                helper.make_node("ReduceSum", ["m", "axis"], ["s"], keepdims=0),
                helper.make_node("Sigmoid", ["s"], ["p"]),
                helper.make_node("Round", ["p"], ["r"]),
                helper.make_node("Cast", ["r"], ["label"], to=7),
            ]
        )

    gates = {"accuracy": {"max_drop": 0.01}, "auc": None, "must_beat_trivial": False}
    registry = Registry({2: edited(credit, logistic)})
    ctx = replace(with_spec(world, gates=gates, precisions=["int8", "fp32"]), registry=registry)
    reports = gated(ctx)
    assert reports[0]["served"] is None
    assert "no operator to quantize" in reports[0]["reasons"][0]
    assert build.choose_stage(ctx, reports)["precision"] == "fp32"
