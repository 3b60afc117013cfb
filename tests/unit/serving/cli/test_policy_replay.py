"""`slipway replay`: another policy on the traffic a release had."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_store.installation import ROOT as REPOSITORY
from serving import composition
from serving.cli.app import app
from serving.control.rollout.plan import Phase
from serving.home import Home
from tests.ledgers import ledger_of
from tests.unit.serving.world import RELEASE, World

SPEC = REPOSITORY / "dags" / "releases" / "credit_risk.yaml"


@pytest.fixture(scope="module", autouse=True)
def _rows_in_memory() -> Iterator[None]:
    """There is no controller to be asked."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(composition, "rows_of", ledger_of)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation in which a release failed a fifth of its requests at 50 % and was taken back."""
    root = tmp_path_factory.mktemp("home")
    world = World(ledger=ledger_of(Home.locate({"SLIPWAY_HOME": str(root)})))
    world.until(Phase.PROGRESSING, step=1).candidate_errors(0.2)
    world.until(Phase.ROLLED_BACK)
    return root


def replay(place: Path, policy: Path | str, *more: str, release: str = RELEASE) -> tuple[int, str, str]:
    runner = CliRunner(env={"COLUMNS": "300", "SLIPWAY_HOME": str(place)})
    done = runner.invoke(app, ["replay", release, "--policy", str(policy), *more])
    return done.exit_code, done.stdout, done.stderr


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "other.yaml"
    path.write_text(text)
    return path


def test_the_policy_in_force_is_found_again_and_a_lenient_one_lets_it_pass(
    place: Path, tmp_path: Path
) -> None:
    other = written(tmp_path, "error_tolerance: 0.5\nmax_error_rate: 0.6\n")
    status, out, _ = replay(place, other)
    assert status == 0
    assert "in force: takes it back after" in out
    assert "at step 2 of 3, 50 %" in out
    assert "other.yaml: would not have taken it back" in out
    assert "error_tolerance" in out
    assert "min_requests" not in out


def answer(place: Path, policy: Path) -> dict[str, dict[str, Any]]:
    status, out, _ = replay(place, policy, "--json")
    assert status == 0
    return {each["name"]: each for each in json.loads(out)["policies"]}


def test_a_stricter_policy_needs_more_requests(place: Path, tmp_path: Path) -> None:
    found = answer(place, written(tmp_path, "alpha: 0.0000000001\n"))
    in_force, other = found["in force"]["failed"], found["other.yaml"]["failed"]
    assert in_force["outcome"] == "FAIL"
    # Records come once a second and at changes; this one is far stricter, so it is seen at least one later.
    assert other is None or other["candidate_requests"] > in_force["candidate_requests"]


def test_a_whole_spec_is_a_policy_too(place: Path) -> None:
    assert answer(place, SPEC)[SPEC.name]["failed"]["reason"].startswith("candidate failed")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("alpha: 0.5\n", "alpha"),
        ("alpha: 0\n", "alpha"),
        ("alpha: .nan\n", "alpha"),
        ("max_error_rate: 1.5\n", "max_error_rate"),
        ("error_tolerance: -0.1\n", "error_tolerance"),
        ("max_slow_share: 0\n", "max_slow_share"),
        ("latency_objective_ms: 0\n", "latency_objective_ms"),
        ("max_disagreement: 1\n", "max_disagreement"),
        ("min_requests: 0\n", "min_requests"),
        ("max_cpu_share: 0.5\n", "max_cpu_share"),
        ("alpha: 0.01\nalpha: 0.02\n", "alpha"),
        ("model: fraud\nrollout:\n  steps:\n  - weight: 100\n", "hold_seconds"),
        ("", "empty"),
        ("- alpha\n", "list"),
    ],
)
def test_a_policy_that_no_judge_can_work_with_is_refused_by_line(
    place: Path, tmp_path: Path, text: str, complaint: str
) -> None:
    status, _, err = replay(place, written(tmp_path, text))
    assert status == 1
    assert "other.yaml:" in err
    assert complaint in err
    assert "remedy: " in err
    assert "Traceback" not in err


def test_unknown_releases_and_files_are_told_with_what_there_is(place: Path) -> None:
    status, _, err = replay(place, SPEC, release="fraud-v9-20261121T120000Z")
    assert (status, RELEASE in err) == (1, True)
    status, _, err = replay(place, "nothing.yaml")
    assert (status, "there is no file" in err) == (1, True)


def test_a_release_that_nobody_watched_cannot_be_replayed(tmp_path: Path) -> None:
    World(ledger=ledger_of(Home.locate({"SLIPWAY_HOME": str(tmp_path)})))
    status, _, err = replay(tmp_path, SPEC)
    assert (status, "nothing was observed" in err) == (1, True)
