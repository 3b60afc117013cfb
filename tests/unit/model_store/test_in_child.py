"""What people are told of a model's child that gave up at a step."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from model_store import export
from model_store.export.base import NotExportable
from model_store.export.in_child import STEPS_REFUSED, refuse_failed_step

TOLD = {"class": "XGBRanker", "failed": "no such objective"}


@pytest.mark.parametrize(
    ("step", "problem", "remedy"),
    [
        ("load", "the model cannot be loaded in its own environment: no such", "with its requirements"),
        ("predict", "the model cannot predict the evaluation rows: no such", "data.inputs; several rows"),
        ("convert", "onnxmltools cannot convert XGBRanker: no such", "flavor: pyfunc serves it as it is"),
        ("memory", "no such objective", "make the model smaller"),
    ],
)
def test_a_step_that_failed_is_refused_with_its_remedy(step: str, problem: str, remedy: str) -> None:
    with pytest.raises(NotExportable) as refused:
        refuse_failed_step({**TOLD, "step": step}, "onnxmltools", on_predict="several rows")
    assert refused.value.problem.startswith(problem)
    assert remedy in refused.value.remedy
    assert ("several rows" in refused.value.remedy) == (step == "predict")


@pytest.mark.parametrize("child", ["boosters_child.py", "pytorch_child.py"])
def test_every_step_that_a_child_tells_of_has_a_remedy(child: str) -> None:
    """They are scripts that run in other environments and import nothing of ours: their text is read."""
    text = Path(export.__file__).with_name(child).read_text()
    steps = {*re.findall(r'"step": "(\w+)"', text), *re.findall(r'\("(\w+)", _?\w+\)[,)]', text)}
    assert steps == set(STEPS_REFUSED)


def test_a_child_that_came_to_its_end_is_not_refused() -> None:
    refuse_failed_step({"kind": "classifier"}, "onnxmltools")
