"""Great Expectations over rows and gates, and Data Docs that anyone can open anywhere."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model_store.errors import Permanent
from model_store.gates.expectations import DataReport, check_data, validate_checks
from model_store.gates.expectations.gates import Disagreement
from model_store.release_spec import ReleaseSpec
from model_store.types import Check, Direction, TensorSpec

REPOSITORY = Path(__file__).parents[3]
INPUTS = (TensorSpec("input", "FP32", (-1, 2)),)
COLUMNS = {"input": ("age", "income")}

Run = Callable[..., DataReport]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Great Expectations would report its use to its makers."""

    def refuse(_: socket.socket, address: object) -> None:
        raise AssertionError(f"something connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def table(seed: int, rows: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.normal(40, 9, rows).astype(np.float32),
            "income": rng.integers(1, 200, rows),
            "bad": (np.arange(rows) % 10 < 3).astype(int),
            "home": rng.choice(["own", "rent"], rows),
        }
    )


def spec(**data: Any) -> ReleaseSpec:
    said = {
        "evaluation": "e.parquet",
        "calibration": "c.parquet",
        "label": "bad",
        "slices": ("home",),
        "columns": {"income": {"min": 0, "max": 250}, "home": {"values": ("own", "rent")}},
        "min_positive_share": 0.2,
        "max_positive_share": 0.4,
    }
    steps = ({"weight": 100, "hold_seconds": 1},)
    source = {"flavor": "onnx"}
    return ReleaseSpec.model_validate(
        {"model": "credit", "source": source, "data": said | data, "rollout": {"steps": steps}}
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Checks these evaluation rows beside good calibration rows."""

    def run(
        evaluation: pd.DataFrame, said: ReleaseSpec | None = None, calibration: pd.DataFrame | None = None
    ) -> DataReport:
        paths = tmp_path / "evaluation.parquet", tmp_path / "calibration.parquet"
        evaluation.to_parquet(paths[0])
        (table(2) if calibration is None else calibration).to_parquet(paths[1])
        return check_data(said or spec(), *paths, INPUTS, columns=COLUMNS, docs_dir=tmp_path / "docs")

    return run


def failures(report: DataReport) -> dict[str, str]:
    assert not report.passed
    with pytest.raises(Permanent) as refused:
        report.require()
    failed = {check.name: check.detail for check in report.checks if not check.passed}
    assert all(
        name in refused.value.problem and detail in refused.value.problem for name, detail in failed.items()
    )
    assert str(report.index) in refused.value.remedy
    return failed


def test_good_rows_meet_every_expectation(run: Run) -> None:
    report = run(table(1))

    report.require()
    assert report.passed
    names = [check.name for check in report.checks]
    assert len(names) == len(set(names)) > 10
    assert {"evaluation: has enough rows", "evaluation: rows are not calibration rows"} <= set(names)
    share = next(check for check in report.checks if "at least 0.2" in check.name)
    assert share.observed == pytest.approx(0.3)
    assert share.limit == 0.2


def test_calibration_rows_among_the_evaluation_rows_are_found(run: Run) -> None:
    leaked = pd.concat([table(1), table(2).head(3).assign(bad=0)])
    failed = failures(run(leaked))

    assert list(failed) == ["evaluation: rows are not calibration rows"]
    assert "observed 0.0099" in failed["evaluation: rows are not calibration rows"]
    # 3 of 303 rows, if they are no leak but alike by nature.
    assert "data.max_leaked_share: 0.01" in failed["evaluation: rows are not calibration rows"]
    assert run(leaked, spec(max_leaked_share=0.01)).passed


def test_a_leaked_row_is_found_in_whatever_type_its_numbers_are_kept(run: Run) -> None:
    other_types = table(2).head(3).astype({"age": "float64", "income": "float32"})
    failed = failures(run(pd.concat([table(1).astype({"age": "float64"}), other_types])))

    assert list(failed) == ["evaluation: rows are not calibration rows"]


def test_the_spec_may_allow_a_share_of_equal_rows(run: Run) -> None:
    leaked = pd.concat([table(1), table(2).head(3).assign(bad=0)])

    assert run(leaked, spec(max_leaked_share=0.02)).passed


@pytest.mark.parametrize(
    ("change", "check", "detail"),
    [
        ({"bad": 0}, "positive labels are at least 0.2", "observed 0.0"),
        ({"bad": 1}, "positive labels are at most 0.4", "observed 1.0"),
        ({"home": "castle"}, "home holds allowed values", "300 of 300 values, e.g. castle"),
        ({"income": 900}, "income is in range", "300 of 300 values, e.g. 900"),
        (
            {"age": np.nan},
            "age is never missing",
            "set data.columns.age.nullable: true, and serving.finite_i",
        ),
        ({"age": np.nan}, "rows can be fed to the model", "column `age` has 300"),
        ({"age": "old"}, "rows can be fed to the model", "column `age` holds"),
        ({"age": None}, "has every column", "lacks age; has bad, home, income"),
        ({"home": None}, "has every column", "lacks home; has age, bad, income"),
        ({"bad": None}, "has every column", "lacks bad; has age, home, income"),
    ],
)
def test_each_way_rows_can_be_wrong_is_an_expectation_that_fails(
    run: Run, change: dict[str, Any], check: str, detail: str
) -> None:
    name, value = next(iter(change.items()))
    rows = table(1).drop(columns=name) if value is None else table(1).assign(**{name: value})
    failed = {key: said for key, said in failures(run(rows)).items() if check in key}

    assert len(failed) == 1
    assert detail in next(iter(failed.values()))


def test_too_few_rows_are_an_expectation_that_fails(run: Run) -> None:
    assert "observed 100" in failures(run(table(1, rows=100)))["evaluation: has enough rows"]


def test_calibration_rows_are_checked_too_but_need_no_labels(run: Run) -> None:
    unlabelled = table(2).drop(columns=["bad", "home"])

    assert run(table(1), calibration=unlabelled).passed
    failed = failures(run(table(1), calibration=table(2).assign(income=-1)))
    assert list(failed) == ["calibration: income is in range"]


def test_missing_values_are_fine_where_the_spec_says_so_and_in_slices(run: Run) -> None:
    rows = table(1)
    rows.loc[0, "age"] = np.nan
    rows["home"] = rows["home"].astype(object)
    rows.loc[0, "home"] = None
    nullable = {"age": {"nullable": True}}

    assert run(rows, spec(columns=nullable)).passed
    assert "evaluation: home is never missing" in failures(run(rows, spec(columns=nullable | {"home": {}})))


def test_text_columns_and_columns_of_lists_are_checked(tmp_path: Path) -> None:
    for name, shade in (("e.parquet", 1.0), ("c.parquet", 2.0)):
        rows = pd.DataFrame({"text": ["a", "b"] * 150, "bad": [0, 1] * 150})
        rows["image"] = pd.Series([np.array([n, shade]) for n in range(300)], dtype=object)
        rows.to_parquet(tmp_path / name)
    inputs = TensorSpec("text", "BYTES", (-1, 1)), TensorSpec("image", "FP32", (-1, 2))
    said = spec(slices=(), columns={}, max_positive_share=0.6)

    report = check_data(
        said,
        tmp_path / "e.parquet",
        tmp_path / "c.parquet",
        inputs,
        columns={"text": ("text",), "image": "image"},
        docs_dir=tmp_path / "docs",
    )

    report.require()


def test_a_file_that_is_no_table_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("")
    with pytest.raises(Permanent, match="is empty"):
        check_data(spec(), tmp_path / "e.csv", tmp_path / "c.csv", INPUTS, columns=COLUMNS, docs_dir=tmp_path)


GOOD = Check("accuracy drop", 0.004, 0.01, passed=True, detail="95 % bound", direction="at_most")
BAD = Check("p99 ms", 31.0, 20.0, passed=False, direction="at_most")
LOW = Check("auc", 0.6, 0.75, passed=False, direction="at_least")
HIGH = Check("auc at least", 0.83, 0.75, passed=True, direction="at_least")


def test_gates_become_a_page_for_each_candidate_and_an_index(tmp_path: Path) -> None:
    docs = validate_checks({"int8 for <trt>": [GOOD, BAD, LOW, HIGH], "fp32": [GOOD]}, tmp_path)

    assert docs.passed == {"int8 for <trt>": False, "fp32": True}
    index = docs.index.read_text()
    assert "1 of 1" in index
    assert "2 of 4" in index
    assert "int8 for &lt;trt&gt;" in index
    page = (tmp_path / "gates-int8-for-trt-.html").read_text()
    for said in (
        "accuracy drop must be at most 0.01 (95 % bound)",
        "p99 ms must be at most 20",
        "auc must be at least 0.75",
        "p99 ms: observed 31, limit 20",
    ):
        assert said in page
    result = json.loads((tmp_path / "gates-fp32.json").read_text())
    assert result["success"] is True


def test_pages_of_two_tasks_share_one_index_and_a_repeated_one_replaces_its_page(
    run: Run, tmp_path: Path
) -> None:
    run(table(1))
    validate_checks({"fp32": [BAD]}, tmp_path / "docs")
    validate_checks({"fp32": [GOOD]}, tmp_path / "docs")

    index = (tmp_path / "docs" / "index.html").read_text()
    assert index.count("<tr><td") == 3
    assert "failed</td>" not in index
    assert not [path for path in (tmp_path / "docs").iterdir() if path.name.startswith(".")]


def test_data_docs_load_nothing_and_run_nothing(run: Run, tmp_path: Path) -> None:
    run(table(1).assign(home="<script>alert(1)</script>"))
    pages = list((tmp_path / "docs").glob("*.html"))
    assert len(pages) == 3
    assert "default-src 'none'" in (tmp_path / "docs" / "data-evaluation.html").read_text()
    for page in pages:
        text = page.read_text()
        assert "http:" not in text
        assert "https:" not in text
        assert "<script" not in text
        assert "src=" not in text


SIDES: list[Direction] = ["at_least", "at_most"]


@pytest.mark.parametrize("direction", SIDES)
def test_nan_fails_on_either_side_and_a_value_at_its_limit_passes(
    tmp_path: Path, direction: Direction
) -> None:
    checks = [
        Check("nan", math.nan, 0.01, passed=False, direction=direction),
        Check("at its limit", 0.01, 0.01, passed=True, direction=direction),
    ]
    assert validate_checks({"int8": checks, "fp16": checks[1:]}, tmp_path).passed == {
        "int8": False,
        "fp16": True,
    }


@pytest.mark.parametrize("check", [GOOD, BAD, LOW, HIGH], ids=lambda check: check.name)
def test_a_verdict_that_is_turned_round_is_caught_on_every_side_of_every_limit(
    tmp_path: Path, check: Check
) -> None:
    wrong = replace(check, passed=not check.passed)
    with pytest.raises(Disagreement, match=r"the gate says .*, Great Expectations "):
        validate_checks({"int8": [wrong]}, tmp_path)


def test_a_check_that_does_not_say_its_side_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="p99 ms does not say on which side"):
        validate_checks({"int8": [replace(BAD, direction="")]}, tmp_path)


def test_a_candidate_without_checks_or_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    for checks in ([], [GOOD, GOOD]):
        with pytest.raises(Permanent, match="passes by checks"):
            validate_checks({"int8": checks}, tmp_path)


def test_importing_the_module_does_not_import_great_expectations() -> None:
    code = "import sys, model_store.gates.expectations; print('great_expectations' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )

    assert run.stdout.strip() == "False"
