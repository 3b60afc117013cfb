"""A user's own function: run in a process of its own, only if trusted, and held to what it must answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from model_store.errors import Permanent
from model_store.foreign_code import Limits
from model_store.metrics import Prediction, Truth, metric
from model_store.metrics.custom import Custom

TRUTH = Truth(np.array([0, 1, 1, 0] * 50), 2)
SAID = Prediction(np.array([0, 1, 0, 0] * 50))
BETTER = Prediction(np.array([0, 1, 1, 0] * 50))

PROFIT = """
import os
COST = {True: 5.0, False: -1.0}
def profit(truth, said):
    assert said.scores is None and truth.values is None
    return [COST[bool(row)] for row in truth.classes == said.decisions]
"""


def written(folder: Path, text: str) -> str:
    path = folder / "costs.py"
    path.write_text(text)
    return f"{path}:profit"


def test_the_metric_is_the_mean_over_rows(tmp_path: Path) -> None:
    profit = metric(written(tmp_path, PROFIT), trusted=True)
    assert profit.value(TRUTH, SAID) == pytest.approx((3 * 5 - 1) / 4)
    assert profit.trivial(TRUTH) is None


def test_two_models_are_compared_row_by_row(tmp_path: Path) -> None:
    profit = metric(written(tmp_path, PROFIT), trusted=True)
    compared = profit.compare(TRUTH, SAID, BETTER, 0.95)
    assert 0 < compared.lower < compared.candidate - compared.reference == 1.5 < compared.upper
    same = profit.compare(TRUTH, SAID, SAID, 0.95)
    assert same.lower < 0 < same.upper


def test_it_imports_the_modules_beside_it_and_reads_nothing_else_there(tmp_path: Path) -> None:
    (tmp_path / "prices.py").write_text("RIGHT = 5.0\n")
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "__init__.py").write_text("WRONG = -1.0\n")
    (tmp_path / "keys.json").write_text("{}")
    code = """
from pathlib import Path
from prices import RIGHT
from house import WRONG
def profit(truth, said):
    assert not Path(__file__).with_name("keys.json").exists()
    return [RIGHT if row else WRONG for row in truth.classes == said.decisions]
"""
    profit = metric(written(tmp_path, code), trusted=True)
    assert profit.value(TRUTH, SAID) == pytest.approx((3 * 5 - 1) / 4)


def test_a_function_of_an_installed_module_is_found() -> None:
    assert metric("operator:eq", trusted=True).name == "operator:eq"
    with pytest.raises(Permanent, match="operator:eq answers \\[\\] for 200 rows"):
        metric("operator:eq", trusted=True).value(TRUTH, SAID)


def test_code_that_nobody_trusts_is_not_loaded(tmp_path: Path) -> None:
    trap = tmp_path / "loaded"
    name = written(tmp_path, f"open({str(trap)!r}, 'w')")
    with pytest.raises(Permanent, match="the spec does not trust its source; nothing was loaded"):
        metric(name)
    assert not trap.exists()


def test_the_function_sees_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    text = "import os\ndef profit(truth, said): raise ValueError(sorted(os.environ))"
    with pytest.raises(Permanent, match=r"fails: ValueError: \[.*'HOME'") as refused:
        metric(written(tmp_path, text), trusted=True).value(TRUTH, SAID)
    assert "MLFLOW_TRACKING" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("def loss(truth, said): return 1", "cannot be loaded: AttributeError"),
        ("import nothing_of_the_kind", "cannot be loaded: ModuleNotFoundError"),
        ("def profit(truth, said): return truth.values + 1", "fails: TypeError"),
        ("def profit(truth, said): return 1.0", r"answers \[\] for 200 rows"),
        ("def profit(truth, said): return truth.classes / 0 * 0.0", "NaN or infinity, first for row 0"),
        ("import os; os._exit(3)", "died with status 3"),
    ],
)
def test_a_function_that_is_wrong_is_refused_with_what_is_wrong(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(Permanent, match=why):
        metric(written(tmp_path, text), trusted=True).value(TRUTH, SAID)


def test_a_function_that_does_not_end_is_ended(tmp_path: Path) -> None:
    name = written(tmp_path, "import time\ndef profit(truth, said): time.sleep(60)")
    with pytest.raises(Permanent, match=r"took longer than 0.1 s"):
        Custom(name, trusted=True, limits=Limits(seconds=0.1)).value(TRUTH, SAID)


@pytest.mark.parametrize("name", ["costs:", ":profit", "costs:not a name"])
def test_what_names_no_function_is_refused(name: str) -> None:
    with pytest.raises(Permanent, match="names no function"):
        metric(name, trusted=True)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=r"there is no file .*costs.py"):
        metric(f"{tmp_path}/costs.py:profit", trusted=True)


def test_it_is_run_in_a_folder_of_the_store_which_a_killed_build_leaves_swept(tmp_path: Path) -> None:
    source = tmp_path / "where.py"
    source.write_text(
        "import os\n"
        "def where(truth, said):\n"
        "    return [float('of-the-store' in os.getcwd())] * len(truth.classes)\n"
    )

    @contextmanager
    def scratch() -> Iterator[Path]:
        (tmp_path / "of-the-store").mkdir()
        yield tmp_path / "of-the-store"

    assert Custom(f"{source}:where", trusted=True, scratch=scratch).value(TRUTH, SAID) == 1.0
    assert (tmp_path / "of-the-store" / "result.json").is_file()
