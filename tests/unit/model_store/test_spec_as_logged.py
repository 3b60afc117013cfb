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
    assert f"{complaint} is of flavor pyfunc alone" in refused.value.problem
