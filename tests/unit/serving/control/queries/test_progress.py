"""How far a rollout came, and how it ended, as the page shows it."""

from __future__ import annotations

import pytest

from benchmarks.page.home import ModelFiles
from serving.control.queries.progress import PlanStep, RolloutEnd, StepMark
from serving.control.queries.views import ReleaseView
from tests.unit.serving.control.queries.test_catalog import NOW, World, standing_model

D, H, F, T, N = StepMark.DONE, StepMark.HERE, StepMark.FAILED, StepMark.TO_COME, StepMark.NOT_REACHED


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("home"))


@pytest.fixture
def fraud(world: World) -> ModelFiles:
    return standing_model(world)


def view(world: World, snapshot: ModelFiles, end: str) -> ReleaseView:
    return world.catalog.release(snapshot.release(2, end))


@pytest.mark.parametrize(
    ("end", "marks"),
    [
        ("rolling_out", [D, H, T, T, T]),
        ("paused", [D, D, H, T, T]),
        ("watching", [D, D, D, D, H]),
        ("promoted", [D, D, D, D, D]),
        ("rolled_back", [F, N, N, N, N]),
        ("rolled_back_later", [D, D, D, D, F]),
    ],
)
def test_every_step_says_what_became_of_it(
    world: World, fraud: ModelFiles, end: str, marks: list[StepMark]
) -> None:
    plan = view(world, fraud, end).row.plan
    weights = (5.0, 25.0, 50.0, 100.0, None)
    assert plan == tuple(PlanStep(*each) for each in zip(weights, marks, strict=True))


def test_a_release_without_traffic_has_no_steps_to_show(world: World, fraud: ModelFiles) -> None:
    assert view(world, fraud, "blocked").row.plan == ()


def test_the_finding_that_took_it_out_is_told_with_its_weight_and_moment(
    world: World, fraud: ModelFiles
) -> None:
    seen = view(world, fraud, "rolled_back")
    assert seen.ending is not None
    assert (seen.ending.weight, seen.ending.was_promoted) == (5, False)
    assert seen.ending.measure.startswith("candidate failed 5 of 9 requests (56%), stable 0 of ")
    assert seen.ending.meaning == "by chance at most once in 2,000 releases"
    assert seen.ending.rules == ("error rate against stable",)
    assert seen.ending.at == seen.row.changed_at
    assert 0 < seen.ending.seconds < 60


def test_one_that_goes_on_or_ended_well_has_no_such_finding(world: World, fraud: ModelFiles) -> None:
    assert view(world, fraud, "rolling_out").ending is None
    fraud.at = fraud.at.replace(minute=1)
    assert view(world, fraud, "promoted").ending is None


@pytest.mark.parametrize(
    ("why", "weight", "headline"),
    [
        ("rolled back by ada: users complain", 25, "Rolled back at 25 % by ada: users complain"),
        ("aborted by bo: not before noon", 5, "Aborted at 5 % by bo: not before noon"),
        ("users complain (asked for by ada)", 5, "Rolled back at 5 %: users complain (asked for by ada)"),
        ("aborted by bo: wrong file", 0, "Aborted before it had traffic by bo: wrong file"),
    ],
)
def test_what_a_person_did_is_said_once(why: str, weight: float, headline: str) -> None:
    assert RolloutEnd(weight, False, why, "", (), NOW, 1.0).headline == headline


def test_one_that_fails_in_its_watch_says_so(world: World, fraud: ModelFiles) -> None:
    ending = view(world, fraud, "rolled_back_later").ending
    assert ending is not None
    assert ending.headline.startswith("Rolled back after it was promoted: candidate failed 5 of 9")
