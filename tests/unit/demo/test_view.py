"""What the demo says of a release on its way."""

from __future__ import annotations

import pytest

from demo.acts import SCENARIOS, scenario
from demo.clients import Json
from demo.models import RECIPES
from demo.view import STORY, ActView, Step, View, in_words, steps_of
from model_store.errors import Permanent
from model_store.installation import ROOT as REPOSITORY


def task(task_id: str, state: str | None, map_index: int = -1) -> Json:
    return {"task_id": task_id, "map_index": map_index, "state": state}


@pytest.mark.parametrize(
    ("states", "step"),
    [
        (["success", "success"], Step.DONE),
        (["success", "running"], Step.ACTIVE),
        (["success", None], Step.ACTIVE),
        (["success", "failed"], Step.FAILED),
        (["deferred"], Step.ACTIVE),
        (["up_for_retry"], Step.ACTIVE),
        ([None], Step.WAITING),
        (["upstream_failed"], Step.SKIPPED),
        (["skipped"], Step.SKIPPED),
    ],
)
def test_a_mapped_step_is_as_far_as_its_instances_together(states: list[str | None], step: Step) -> None:
    tasks = [task("candidates.gate", state, index) for index, state in enumerate(states)]
    assert steps_of(tasks) == {"gate": step}


def test_every_step_of_the_story_is_a_task_of_the_release_dag() -> None:
    source = (REPOSITORY / "dags" / "model_release.py").read_text()
    missing = [name for name in STORY if f"def {name}(" not in source and f'task_id="{name}"' not in source]
    assert missing == []


def test_the_split_is_said_in_words() -> None:
    assert in_words({1: 95.0, 2: 5.0}) == "v1 95 %, v2 5 %"
    assert in_words({}) == ""


def test_the_current_act_is_the_one_that_began_and_has_not_ended() -> None:
    first, second = (ActView(act) for act in SCENARIOS["risk"].acts[:2])
    view = View("demo", [first, second])
    seen = [view.current]
    first.began = 1.0
    seen.append(view.current)
    first.ended, second.began = 3.0, 4.0
    seen.append(view.current)
    assert seen == [None, first, second]
    assert (first.seconds(9.0), second.seconds(9.0)) == (2.0, 5.0)


def test_an_unknown_scenario_is_refused_with_what_exists() -> None:
    with pytest.raises(Permanent, match="risk, service, recsys"):
        scenario("weather")


def test_the_fault_is_for_the_version_that_is_to_be_rolled_back() -> None:
    credit = scenario("risk")
    (bad,) = [act.version for act in credit.acts if act.ending == "rolled_back"]
    assert credit.faults == f"{credit.model}@{bad}:error_rate=0.2"


def test_every_act_has_a_model_to_train() -> None:
    assert [act.version for act in scenario("risk").acts] == sorted(RECIPES)
