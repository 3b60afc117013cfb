"""torch models as people log them: through the stages of the build, and asked through a pod.

A tier of its own in `.ci/run`: torch and its CUDA libraries are gigabytes, in environments of their own.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from model_store.export import export
from model_store.release_spec import ReleaseSpec
from model_store.types import ModelRef
from tests.build_world import hurry
from tests.pods import running_pod
from tests.pyfunc_models import CODE, LEAN, bundle_of
from tests.zoo.boosters import python_with
from tests.zoo.world import Ending, Made, checked, spec_of

TORCH = "torch==2.15.0"
# What the module of the models imports is among them.
REQUIREMENTS = [*LEAN, TORCH, f"scikit-learn=={version('scikit-learn')}"]
MANY: dict[str, Any] = {"task": "multiclass"}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, lasting_environments: Path) -> Path:
    """Where models are trained."""
    return python_with(TORCH, tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def saved(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of one of `models_from_code/save_torch.py`."""

    @cache
    def save(which: str) -> Path:
        folder = tmp_path_factory.mktemp(which)
        (folder / "requirements.json").write_text(json.dumps(REQUIREMENTS))
        command = [python, CODE / "save_torch.py", which, folder, folder / "requirements.json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return folder

    return save


def made(folder: Path, **spec: Any) -> Made:
    rows = [pd.read_parquet(folder / f"{role}.parquet") for role in ("evaluation", "calibration")]
    numbers = json.loads((folder / "numbers.json").read_text())
    # fp32 alone: precisions are the zoo's.
    known = {"source": {"allow": ["pytorch"]}, "precisions": ["fp32"], **spec}
    return Made(folder / "model", None, rows[0], rows[1], "right", numbers, known)


@dataclass(frozen=True)
class Kind:
    """`says`: what the reason holds, as a pattern."""

    which: str
    spec: dict[str, Any]
    ending: Ending = "published"
    says: str = ""


KINDS = [
    Kind("perceptron", {}),
    Kind(
        "one_row_for_example",
        {},
        "refused",
        "cannot predict the evaluation rows.*input_example of several rows",
    ),
    Kind("pickled_table", {"task": "regression", "gates": {"mae": {"max_increase": 0.2}}}),
    Kind("pictures", MANY),
    Kind("halves", {**MANY, "outputs": {"label": "label", "scores": "logits"}}),
    Kind("words", {"task": "binary", "outputs": {"scores": "score", "threshold": 0.5}}),
    Kind("scripted", MANY),
    Kind("left_in_training", {}),
]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.which for kind in KINDS])
def test_it_ends_as_it_must(
    kind: Kind, saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    one = made(saved(kind.which), **kind.spec)
    result = checked(one, tmp_path)
    told = f"{result.problem}\n{result.remedy}"
    assert result.ending == kind.ending, f"{result.ending} at {result.stage}: {told}"
    assert re.search(kind.says, told, re.DOTALL), told
    if kind.ending == "published":
        (plain,) = result.candidates
        own = {c.metric: c.reference for c in plain.checks if c.name == f"{c.metric} non-inferiority"}
        assert {name: own.get(name) for name in one.numbers} == pytest.approx(dict(one.numbers), abs=1e-6)


@pytest.mark.parametrize("allow", [[], ["pickle", "cloudpickle"]])
def test_nothing_is_loaded_that_the_spec_does_not_allow(
    saved: Callable[[str], Path], tmp_path: Path, allow: list[str]
) -> None:
    result = checked(made(saved("perceptron"), source={"allow": allow}), tmp_path)
    assert result.ending == "refused"
    assert "pytorch]" in result.remedy


def test_the_same_model_gives_the_same_bytes(saved: Callable[[str], Path], tmp_path: Path) -> None:
    one = made(saved("pictures"), **MANY)
    digests = set()
    for turn in ("first", "second"):
        home = tmp_path / turn
        home.mkdir()
        spec = ReleaseSpec.model_validate(spec_of(one, home))
        exported = export(
            ModelRef("animal", 1), spec, one.model, home / "out", evaluation=Path(spec.data.evaluation)
        )
        digests.add(exported.digest)
        assert b"save_torch.py" not in exported.path.read_bytes()
    assert len(digests) == 1


@pytest.fixture(scope="module")
def urls(saved: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("serving")
    bundles = []
    for which in ("perceptron", "pickled_table"):
        rows = pd.read_parquet(saved(which) / "evaluation.parquet").drop(columns="right")
        bundles.append(bundle_of(home / which, saved(which) / "model", rows, name=which, flavor="pytorch"))
    with running_pod(*bundles) as pod:
        yield pod.http


@pytest.mark.parametrize("which", ["perceptron", "pickled_table"])
def test_clients_of_mlflows_server_get_its_answers(
    urls: Any, saved: Callable[[str], Path], which: str
) -> None:
    """What it answered is written down where torch is."""
    asked = json.loads((saved(which) / "asked.json").read_text())
    answered = urls.post(f"/v2/models/{which}/invocations", json=asked["body"])
    assert answered.status_code == 200, answered.text
    ours, theirs = answered.json()["predictions"], asked["predictions"]
    assert pd.DataFrame(ours).to_numpy() == pytest.approx(pd.DataFrame(theirs).to_numpy(), rel=1e-4)
    assert type(ours[0]) is type(theirs[0])
    assert ours[0].keys() == theirs[0].keys() if isinstance(theirs[0], dict) else True
