"""What keeps a rollout from its next step: freezes, paused DAGs; and who is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from model_store.release_spec import load
from model_store.release_spec.notify import Notify
from serving import composition
from serving.control import notifications, paused_dags
from serving.control.controller.holds import MOST_AT_ONCE, Holds
from serving.control.controller.tick import Controller
from serving.control.freeze_enforcement import freezes_of
from serving.control.releases import Releases, Request
from serving.control.rollout.lock import Claim, ReleaseLock
from serving.control.rollout.plan import Hold, Phase
from serving.control.wiring import Services
from serving.home import Home, Ports
from serving.types import ALL_STABLE
from tests.ledgers import ledger_in_memory
from tests.unit.serving.world import RELEASE, SERVICE, World

SPEC = Path(__file__).parents[5] / "dags" / "releases" / "credit_risk.yaml"


__all__ = ["ledger_in_memory"]
pytestmark = pytest.mark.usefixtures("ledger_in_memory")


class HeldWorld(World):
    """A world whose controller asks what holds a release."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.home = Home(root, Ports())
        at = datetime(2026, 11, 21, 12, tzinfo=UTC)
        request = Request(f"release_{SERVICE}", "run-1", at, "2", "", "ada", dry_run=False)
        told = (Notify.model_validate({"to": "webhook", "url_env": "HOOK", "secret_env": "S"}),)
        spec = load(SPEC).model_copy(update={"model": SERVICE, "notify": told})
        assert self.services.releases.open(request, spec, lambda _: 2).id == RELEASE
        self.restart_controller()

    @property
    def services(self) -> Services:
        lock = ReleaseLock(self.ledger)
        ports: Any = {"journal": self.journal, "router": self.router, "rows": self.ledger, "lock": lock}
        ports["releases"] = Releases(self.ledger)
        return replace(composition.wire(self.home), **ports)

    def restart_controller(self) -> HeldWorld:
        super().restart_controller()
        if hasattr(self, "home"):
            clocks: dict[str, Any] = {"now": self.now, "monotonic": self.monotonic}
            self.holds = Holds(self.services, **clocks)
            self.controller = Controller(self.journal, self.router, self, **clocks, holds=self.holds)
        return self

    def freeze(self, model: str | None = None) -> None:
        at = datetime.now(UTC)
        until = at + timedelta(hours=1)
        freezes_of(self.services).add(model, by="ada", reason="audit", until=until, at=at)

    def lift(self) -> None:
        freezes = freezes_of(self.services)
        for one in freezes.asked_for(at=datetime.now(UTC)):
            freezes.lift(one.id, by="ada", at=datetime.now(UTC))


@pytest.fixture
def world(tmp_path: Path) -> HeldWorld:
    return HeldWorld(tmp_path)


def pause_dag(world: HeldWorld) -> Callable[[], None]:
    paused_dags.record(world.home, [f"release_{SERVICE}"])
    return lambda: paused_dags.record(world.home, [])


def freeze(world: HeldWorld) -> Callable[[], None]:
    world.freeze()
    return world.lift


@pytest.mark.parametrize("hold", [freeze, pause_dag])
def test_what_is_held_keeps_its_split_and_goes_on_by_itself(
    world: HeldWorld, hold: Callable[[HeldWorld], Callable[[], None]]
) -> None:
    world.until(Phase.PROGRESSING, step=1)
    let_go, split = hold(world), world.split
    world.tick(60)
    assert (world.split, world.state.step) == (split, 1)
    assert isinstance(world.actions[-1], Hold)
    let_go()
    world.until(Phase.DONE)


def test_no_step_is_taken_in_a_freeze_that_has_just_begun(world: HeldWorld) -> None:
    world.until(Phase.PROGRESSING, step=1).tick(6)
    world.holds._looked[RELEASE] = world.uptime + 0.25  # it was asked a moment ago
    world.freeze()
    world.tick(4)
    assert world.state.step == 1


def test_what_fails_in_a_freeze_is_rolled_back(world: HeldWorld) -> None:
    world.until(Phase.PROGRESSING, step=1)
    world.freeze()
    world.tick(4).candidate_errors(1.0).tick(4)
    assert (world.phase, world.split) == (Phase.ROLLED_BACK, ALL_STABLE)


def test_a_freeze_of_another_model_holds_nothing(world: HeldWorld) -> None:
    world.freeze("churn")
    world.until(Phase.DONE)


def test_people_are_told_once_of_what_is_held_also_by_a_controller_that_was_restarted(
    world: HeldWorld,
) -> None:
    world.until(Phase.PROGRESSING, step=1)
    world.freeze()
    world.tick(20).restart_controller().tick(20)
    entries = notifications.outbox_of(world.services).due(at=world.wall)
    assert [entry.message.title for entry in entries] == ["fraud v2 is held at 50 %"]


def test_of_many_a_few_are_asked_at_a_time_and_each_in_the_end(world: HeldWorld) -> None:
    states = [replace(world.state, release_id=f"fraud-v{n}-20261121T120000Z") for n in range(25)]
    asked: list[str] = []
    world.holds.enforce = lambda state: bool(asked.append(state.release_id))  # type: ignore[method-assign]
    for number in range(1, 4):
        world.holds.look(states, {}, world.controller.apart)
        assert len(asked) == min(number * MOST_AT_ONCE, 25)
    assert set(asked) == {state.release_id for state in states}


def test_a_rollout_that_nobody_wrote_down_a_release_of_is_held_by_what_holds_all(world: HeldWorld) -> None:
    world.services.releases.forget(world.services.releases.load(RELEASE))
    world.restart_controller().until(Phase.PROGRESSING, step=1)
    world.freeze()
    world.tick(40)
    assert world.state.step == 1
    world.lift()
    world.until(Phase.DONE)


def test_a_watch_does_not_end_before_the_promotion_is_recorded(world: HeldWorld) -> None:
    lock = world.services.lock
    lock.acquire(SERVICE, Claim(world.wall, RELEASE))
    world.until(Phase.WATCHING).tick(400)
    assert (world.phase, world.route.stable) == (Phase.WATCHING, world.stable)
    assert world.controller.actions[RELEASE] == Hold("watched until its promotion is recorded")
    lock.release(SERVICE, RELEASE)
    world.until(Phase.DONE)


def test_a_promotion_that_cannot_be_recorded_still_has_its_way_back(world: HeldWorld) -> None:
    world.services.lock.acquire(SERVICE, Claim(world.wall, RELEASE))
    world.until(Phase.WATCHING).tick(400)
    world.rollouts.roll_back(RELEASE, reason="MLflow is down")
    assert (world.phase, world.route.stable) == (Phase.ROLLED_BACK, world.stable)
