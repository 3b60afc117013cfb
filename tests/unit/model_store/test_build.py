"""From a registered version to a bundle, stage by stage, and nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model_store import build
from model_store.build import build_bundle, variants
from model_store.stages.base import BuildContext
from model_store.storage.store import Store
from tests.build_world import a_world, built, gated, hurry, with_engines, with_spec
from tests.small_models import Credit

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def world(store: Store, credit: Credit, monkeypatch: pytest.MonkeyPatch) -> BuildContext:
    hurry(monkeypatch)
    return a_world(store, credit)


# what is made


def test_int8_is_tried_in_each_layout_the_targets_need(world: BuildContext) -> None:
    assert variants(with_engines(world).spec) == [
        {"precision": "int8", "layout": "onnxruntime"},
        {"precision": "int8", "layout": "tensorrt"},
        {"precision": "fp16", "layout": "onnxruntime"},
        {"precision": "fp32", "layout": "onnxruntime"},
    ]
    assert [v["layout"] for v in variants(world.spec)] == ["onnxruntime"] * 3


def test_a_good_version_becomes_a_bundle_with_engines_and_its_whole_ancestry(world: BuildContext) -> None:
    ctx = with_engines(world)
    bundle = built(ctx)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["precision"] == "int8"
    assert manifest["lineage"]["mlflow_run_id"] == "run2"
    assert manifest["lineage"]["spec_digest"] == ctx.spec.digest
    assert [(a.format, a.precision) for a in bundle.artifacts] == [("onnx", "int8"), ("tensorrt_rtx", "int8")]
    parents = {a["digest"]: a["parent_digest"] for a in manifest["artifacts"]}
    for artifact in bundle.artifacts:
        chain = [artifact.digest]
        while parents[chain[-1]]:
            chain.append(parents[chain[-1]])
        assert len(chain) == 3, "compiled from quantized from exported"
    assert manifest["evidence"]["gpu_memory_bytes"] == 0
    assert {v["variant"]["precision"] for v in manifest["evidence"]["variants"]} == {"int8", "fp16", "fp32"}


def test_all_stages_in_a_row_make_the_same(world: BuildContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "check_data_stage", lambda ctx, exported: {})
    assert build_bundle(world).id == built(world).id


def test_what_stages_hand_on_is_small_json(world: BuildContext) -> None:
    exported = build.export_stage(world)
    for value in (exported, *gated(world)):
        text = json.dumps(value)
        assert json.loads(text) == value
        assert len(text) < 20_000


def test_each_long_stage_tells_that_it_began_and_how_long_it_took(
    world: BuildContext, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "slipway.build"):
        gated(with_spec(world, precisions=["fp32"]))
    told = [line for line in caplog.messages if ": done" not in line]
    assert told == [
        "export credit_risk v2",
        "quantize fp32 for onnxruntime",
        "compile fp32 for onnxruntime",
        "gate fp32 for onnxruntime",
    ]
    assert len(caplog.messages) == 2 * len(told)


# nothing is made twice


def test_the_same_version_again_is_the_same_bundle_and_costs_nothing(
    world: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = built(world)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("done twice")

    for work in (
        "quantize.quantize",
        "compile.compiler",
        "gate._judge",
        "export._export",
        "choose._document",
    ):
        if work != "compile.compiler":
            monkeypatch.setattr(f"model_store.stages.{work}", refuse)
    (world.docs / "index.html").parent.mkdir(parents=True, exist_ok=True)
    (world.docs / "index.html").touch()
    assert built(world).id == first.id
    assert world.registry.downloads == 1


def test_two_installations_build_the_same_bundle(world: BuildContext, tmp_path: Path) -> None:
    assert built(replace(world, store=Store(tmp_path))).id == built(world).id


def test_a_lost_artifact_is_made_again(world: BuildContext) -> None:
    first = built(world)
    for artifact in (world.store.root / "artifacts").iterdir():
        world.store.remove("artifacts", artifact.name)
    assert built(world).id == first.id


def test_other_evaluation_rows_are_judged_anew(world: BuildContext, credit: Credit, tmp_path: Path) -> None:
    import pandas as pd

    before = gated(world)[0]["report"]["dataset_digest"]
    folder = tmp_path / "data" / "credit_risk"
    folder.mkdir(parents=True)
    for name in ("evaluation", "calibration"):
        frame = pd.read_parquet(credit.home / "data" / "credit_risk" / f"{name}.parquet")
        frame.head(1200).to_parquet(folder / f"{name}.parquet", index=False)
    assert gated(replace(world, home=tmp_path))[0]["report"]["dataset_digest"] != before


# each task pays for its own libraries only


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("build", {"onnx", "onnxruntime", "numpy", "pyarrow"}),
        ("stages.compile", {"tensorrt_rtx_bindings"}),
        ("stages.quantize", {"scipy"}),
        ("stages.gate", {"onnx", "scipy"}),
        ("stages.choose", {"onnx", "onnxruntime"}),
        ("stages.publish", {"onnx"}),
    ],
)
def test_a_stage_imports_only_what_it_needs(module: str, forbidden: set[str]) -> None:
    code = f"import sys, model_store.{module}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    never = {"pandas", "sklearn", "great_expectations", "mlflow"}
    assert (forbidden | never) & set(said.stdout.split()) == set()
