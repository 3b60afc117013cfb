"""A step that not every proxy has taken is no step yet; a way back waits for none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.control.rollout.plan import Hold, Phase
from serving.gateway.router.memory import MemoryRouter
from serving.types import ALL_STABLE, Route
from tests.unit.serving.world import RELEASE, World

LACKING = "Envoy b has not acknowledged revision 3 of m"


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put into it what proxies have not taken."""
    found: list[str] = []
    monkeypatch.setattr(MemoryRouter, "unacknowledged", lambda self, route: tuple(found))
    return found


def test_the_next_step_is_not_taken_while_a_proxy_has_not_taken_this_one(
    tmp_path: Path, lacking: list[str]
) -> None:
    world = World().until(Phase.PROGRESSING, step=0)
    lacking.append(LACKING)
    world.tick(2000)
    assert world.state.step == 0
    action = world.controller.actions[RELEASE]
    assert isinstance(action, Hold)
    assert LACKING in action.reason
    lacking.clear()
    world.until(Phase.PROGRESSING, step=1)


def test_a_failing_candidate_is_taken_out_whoever_has_not_acknowledged(
    tmp_path: Path, lacking: list[str]
) -> None:
    world = World().until(Phase.PROGRESSING, step=0)
    lacking.append(LACKING)
    world.candidate_errors(1.0).until(Phase.ROLLED_BACK)
    assert world.split == ALL_STABLE


def test_a_step_that_is_never_taken_ends_the_release_with_the_proxys_name(
    tmp_path: Path, lacking: list[str]
) -> None:
    world = World().until(Phase.PROGRESSING, step=0)
    lacking.append(LACKING)
    world.until(Phase.ROLLED_BACK, ticks=20_000)
    assert LACKING in world.state.reason


def test_proxies_are_asked_about_the_route_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Route] = []
    monkeypatch.setattr(MemoryRouter, "unacknowledged", lambda self, route: tuple(asked.append(route) or ()))
    world = World().until(Phase.PROGRESSING, step=0)
    before = len(asked)
    route = world.route
    world.until(Phase.PROGRESSING, step=1)
    assert asked[before:] == [route]
