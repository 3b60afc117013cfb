"""How far a rollout came, and how it ended, as the page shows it."""

from __future__ import annotations

import pytest
from slipway_airflow.books.progress import Mark, PlanStep
from slipway_airflow.books.views import ReleaseView

from benchmarks.page.home import Shelf
from tests.unit.slipway_airflow.books.test_library import World, standing_model

D, H, F, T, N = Mark.DONE, Mark.HERE, Mark.FAILED, Mark.TO_COME, Mark.NOT_REACHED


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("home"))


@pytest.fixture
def fraud(world: World) -> Shelf:
    return standing_model(world)


def view(world: World, shelf: Shelf, end: str) -> ReleaseView:
    return world.library.release(shelf.release(2, end))


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
def test_every_step_says_what_became_of_it(world: World, fraud: Shelf, end: str, marks: list[Mark]) -> None:
    plan = view(world, fraud, end).row.plan
    weights = (5.0, 25.0, 50.0, 100.0, None)
    assert plan == tuple(PlanStep(*each) for each in zip(weights, marks, strict=True))


def test_a_release_without_traffic_has_no_steps_to_show(world: World, fraud: Shelf) -> None:
    assert view(world, fraud, "blocked").row.plan == ()


def test_the_finding_that_took_it_out_is_told_with_its_weight_and_moment(world: World, fraud: Shelf) -> None:
    seen = view(world, fraud, "rolled_back")
    assert seen.ending is not None
    assert (seen.ending.weight, seen.ending.was_promoted) == (5, False)
    assert seen.ending.measure.startswith("candidate failed 5 of 9 requests (56%), stable 0 of ")
    assert seen.ending.meaning == "by chance at most once in 2,000 releases"
    assert seen.ending.rules == ("error rate against stable",)
    assert seen.ending.at == seen.row.changed_at
    assert 0 < seen.ending.seconds < 60


def test_one_that_goes_on_or_ended_well_has_no_such_finding(world: World, fraud: Shelf) -> None:
    assert view(world, fraud, "rolling_out").ending is None
    fraud.at = fraud.at.replace(minute=1)
    assert view(world, fraud, "promoted").ending is None
