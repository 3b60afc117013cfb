"""Every kind of model ends as it must, at the first attempt, with the framework's own numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.build_world import hurry
from tests.zoo import as_logged, boosters, classifiers, graphs, older, regressors, tables
from tests.zoo.world import Kind, checked

# Their libraries are downloaded first.
DOWNLOADED = [*boosters.KINDS, *older.KINDS]
KINDS = [
    *classifiers.KINDS,
    *regressors.KINDS,
    *graphs.KINDS,
    *tables.KINDS,
    *as_logged.KINDS,
    *DOWNLOADED,
]


# Each library is a download and an environment of its own.
PARAMETERS = [
    pytest.param(kind, id=kind.name, marks=[pytest.mark.at_length] if kind in DOWNLOADED else [])
    for kind in KINDS
]


@pytest.mark.parametrize("kind", PARAMETERS)
@pytest.mark.usefixtures("lasting_environments")
def test_it_ends_as_it_must(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    made = kind.make(tmp_path / "made")
    result = checked(made, tmp_path)
    told = f"{result.problem}\n{result.remedy}"
    assert result.ending == kind.ending, f"{result.ending} at {result.stage}: {told}"
    assert re.search(kind.says, told), told
    if kind.ending == "published":
        plain = next(c for c in result.candidates if c.precision in ("fp32", "original"))
        own = {c.metric: c.reference for c in plain.checks if c.name == f"{c.metric} non-inferiority"}
        assert made.numbers
        assert {name: own.get(name) for name in made.numbers} == pytest.approx(dict(made.numbers), abs=1e-9)


def test_there_are_forty_kinds_with_names_of_their_own() -> None:
    names = [kind.name for kind in KINDS]
    assert len(names) == len(set(names)) >= 40
