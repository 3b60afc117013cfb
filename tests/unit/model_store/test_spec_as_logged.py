"""What a spec means of a model that is served as it was logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model_store.build import variants
from model_store.release_spec import InvalidSpec, ReleaseSpec, load

SPEC = """\
model: odd
source: {flavor: pyfunc, trusted: true}
data: {evaluation: e.parquet, calibration: c.parquet, label: y}
rollout:
  steps: [{weight: 100, hold_seconds: 60}]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "odd.yaml"


def test_it_has_one_variant_and_one_engine_without_anybody_writing_that(path: Path) -> None:
    path.write_text(SPEC + "serving: {replicas: 2}\n")
    spec = load(path)
    assert variants(spec) == [{"precision": "original", "layout": "as logged"}]
    assert (spec.targets, spec.serving.runtime, spec.serving.replicas) == (("python",), "python", 2)
    assert ReleaseSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("more", "complaints"),
    [
        ("precisions: [int8, original]\n", ["precisions: flavor pyfunc is served as it was logged"]),
        ("targets: [onnxruntime, python]\n", ["targets: flavor pyfunc is served as it was logged"]),
        ("serving: {runtime: onnxruntime}\n", ["serving.runtime: flavor pyfunc is served as it was logged"]),
        ("gates: {latency: {max_ratio: 1.1}}\n", ["gates.latency.max_ratio: flavor pyfunc has no fp32"]),
    ],
)
def test_what_it_cannot_mean_is_refused(path: Path, more: str, complaints: list[Any]) -> None:
    path.write_text(SPEC + more)
    with pytest.raises(InvalidSpec) as refused:
        load(path)
    for complaint in complaints:
        assert complaint in refused.value.problem


@pytest.mark.parametrize(
    ("more", "complaint"),
    [("precisions: [original]\n", "`original`"), ("serving: {runtime: python}\n", "`python`")],
)
def test_of_any_other_flavour_it_is_refused(path: Path, more: str, complaint: str) -> None:
    path.write_text(SPEC.replace("pyfunc", "onnx") + more)
    with pytest.raises(InvalidSpec) as refused:
        load(path)
    assert f"{complaint}, but flavor onnx is exported" in refused.value.problem


WITHOUT_FLAVOUR = SPEC.replace("{flavor: pyfunc, trusted: true}", "{allow: [pickle, pyfunc]}")


def test_without_a_flavour_what_is_allowed_decides_what_is_tried(path: Path) -> None:
    path.write_text(WITHOUT_FLAVOUR)
    both = load(path)
    assert [one["precision"] for one in variants(both)] == ["fp32", "fp16", "int8", "int8", "original"]
    assert (both.targets_of("original"), both.targets_of("fp32")) == (
        ("python",),
        ("onnxruntime", "tensorrt_rtx"),
    )
    assert (both.runtime_of("original"), both.runtime_of("int8")) == ("python", "onnxruntime")
    path.write_text(WITHOUT_FLAVOUR.replace("[pickle, pyfunc]", "[pickle]"))
    assert "original" not in load(path).precisions


def test_a_flavour_is_the_only_way_that_is_tried(path: Path) -> None:
    path.write_text(WITHOUT_FLAVOUR.replace("{allow", "{flavor: sklearn, allow"))
    assert "original" not in load(path).precisions


@pytest.mark.parametrize(
    ("allow", "more", "complaint"),
    [
        ("[pickle]", "precisions: [fp32, original]\n", "runs the model's code in pods: source.allow: [py"),
        ("[pyfunc]", "serving: {runtime: python}\n", "what is exported is not run by Python"),
    ],
)
def test_beside_exports_it_has_to_be_allowed_and_to_leave_the_runtime(
    path: Path, allow: str, more: str, complaint: str
) -> None:
    path.write_text(WITHOUT_FLAVOUR.replace("[pickle, pyfunc]", allow) + more)
    with pytest.raises(InvalidSpec) as refused:
        load(path)
    assert complaint in refused.value.problem


def test_trusted_opens_every_format_only_where_none_is_named(path: Path) -> None:
    path.write_text(SPEC.replace("pyfunc", "sklearn"))
    assert load(path).source.allows("cloudpickle")
    path.write_text(SPEC.replace("{flavor: pyfunc, trusted: true}", "{trusted: true, allow: [skops]}"))
    assert not load(path).source.allows("cloudpickle")
