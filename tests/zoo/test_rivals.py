"""Specs that name no flavour: an export and the model as it was logged are rivals, and measuring picks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_store.check import Result
from tests.build_world import hurry
from tests.zoo.as_logged import add_n, as_pyfunc
from tests.zoo.world import Made, checked

pytestmark = pytest.mark.usefixtures("lasting_environments")

BOTH: dict[str, Any] = {"precisions": ["fp32", "original"], "targets": ["onnxruntime"], "prefer": "latency"}


def allowing(made: Made, *formats: str, **more: Any) -> Made:
    """The same model by a spec that says what may run code, and nothing of how it was logged."""
    kept = {key: value for key, value in made.spec.items() if key not in ("targets", "precisions")}
    source = {"trusted": False, "allow": list(formats)}
    return replace(made, flavor=None, spec={**kept, **BOTH, **more, "source": source})


def judged(made: Made, home: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    hurry(monkeypatch)
    return checked(made, home)


def test_the_faster_form_is_chosen_and_says_by_how_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = allowing(as_pyfunc(tmp_path / "made"), "cloudpickle", "pyfunc")
    result = judged(made, tmp_path, monkeypatch)
    assert (result.ending, result.precision) == ("published", "fp32"), result.problem
    assert [one.passed for one in result.candidates] == [True, True]
    assert "times the speed of the model as it was logged, same decisions" in result.reason
    logged = result.candidates[1]
    assert logged.latency_ratio is not None
    assert logged.latency_ratio > 1


def test_what_nothing_exports_is_served_as_it_was_logged_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = judged(allowing(add_n(tmp_path / "made"), "pyfunc"), tmp_path, monkeypatch)
    assert (result.ending, result.precision) == ("published", "original"), result.problem
    assert "nothing exports its flavours" in result.reason


def test_an_export_that_is_not_allowed_leaves_the_other_form_and_names_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = judged(allowing(as_pyfunc(tmp_path / "made"), "pyfunc"), tmp_path, monkeypatch)
    assert (result.ending, result.precision) == ("published", "original"), result.problem
    assert "write source.allow: [pyfunc, cloudpickle]" in result.reason


def test_without_pyfunc_there_is_the_export_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = allowing(as_pyfunc(tmp_path / "made"), "cloudpickle", precisions=["fp32"])
    result = judged(made, tmp_path, monkeypatch)
    assert (result.ending, len(result.candidates)) == ("published", 1), result.problem


def test_a_champion_that_nothing_exports_serves_as_it_was_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = allowing(add_n(tmp_path / "made"), "pyfunc", gates={"champion": {"mae": {"max_increase": 0.1}}})
    result = judged(replace(made, champion=made.model), tmp_path, monkeypatch)
    assert (result.ending, result.precision) == ("published", "original"), result.problem
    assert "mae against champion v1 non-inferiority" in {check.name for check in result.candidates[1].checks}


@pytest.mark.parametrize("make", [as_pyfunc, add_n])
def test_nothing_is_opened_that_no_line_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Made]
) -> None:
    made = allowing(make(tmp_path / "made"), "skops", precisions=["fp32"])
    result = judged(made, tmp_path, monkeypatch)
    assert result.ending == "refused"
    assert "source.allow: [" in result.remedy
