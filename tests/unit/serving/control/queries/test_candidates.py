"""The table of what was tried."""

from __future__ import annotations

from typing import Any, cast

from model_store.stages.base import Gated
from serving.control.queries.candidates import candidate_rows


def gated(precision: str, layout: str = "onnxruntime", **changes: Any) -> Gated:
    passed = changes.pop("passed", True)
    check = {
        "name": "accuracy non-inferiority",
        "observed": -0.001 if passed else -0.05,
        "limit": -0.01,
        "passed": passed,
        "detail": "",
        "reference": 0.9,
        "value": 0.899,
    }
    usual = {
        "variant": {"precision": precision, "layout": layout},
        "report": {"dataset_digest": "", "checks": [check]},
        "profile": {"p50_ms": 0.1, "p99_ms": 0.3},
        "served": {"size_bytes": 2_000_000},
        "engines": [],
        "quantized": None,
        "reasons": [],
    }
    return cast("Gated", usual | changes)


def test_the_chosen_one_comes_first_and_a_missed_limit_says_which() -> None:
    rows = candidate_rows([gated("int8", passed=False), gated("fp32")], runtime="onnxruntime", chosen="fp32")
    assert [(row.precision, row.status) for row in rows] == [("fp32", "chosen"), ("int8", "missed")]
    assert "accuracy non-inferiority" in rows[1].reason
    assert (rows[0].accuracy, rows[0].accuracy_before, rows[0].p99_ms, rows[0].size_mb) == (
        0.899,
        0.9,
        0.3,
        2.0,
    )


def test_an_engine_is_a_row_of_its_own() -> None:
    engine = {"format": "tensorrt_rtx", "size_bytes": 1_000_000}
    rows = candidate_rows([gated("fp16", engines=[engine])], runtime="onnxruntime", chosen=None)
    assert [(row.target, row.status) for row in rows] == [
        ("onnxruntime", "passed"),
        ("tensorrt_rtx", "passed"),
    ]
    assert rows[1].p50_ms is None


def test_a_layout_that_another_variant_makes_up_for_is_not_told() -> None:
    made = gated("int8")
    other = gated(
        "int8",
        "tensorrt",
        served=None,
        profile=None,
        reasons=["int8 in the layout of tensorrt is not for onnxruntime"],
    )
    rows = candidate_rows([made, other], runtime="onnxruntime", chosen=None)
    assert [(row.target, row.status) for row in rows] == [("onnxruntime", "passed")]


def test_what_could_not_be_made_says_why() -> None:
    none = gated("int8", served=None, profile=None, reasons=["no node can be quantized"])
    none["report"]["checks"] = []
    rows = candidate_rows([none], runtime="onnxruntime", chosen=None)
    assert [(row.status, row.reason) for row in rows] == [("none", "no node can be quantized")]


def test_the_model_as_it_was_logged_is_run_by_python_and_is_no_engine_beside_itself() -> None:
    logged = {"format": "mlflow", "size_bytes": 9_000_000}
    whole = gated("original", "as logged", served=logged, engines=[logged])
    rows = candidate_rows([gated("fp32"), whole], runtime="onnxruntime", chosen="fp32")
    assert [(row.precision, row.target) for row in rows] == [("fp32", "onnxruntime"), ("original", "python")]
