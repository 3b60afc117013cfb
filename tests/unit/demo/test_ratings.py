"""MovieLens' tables as what the film model takes."""

from __future__ import annotations

import pandas as pd
import pytest

from demo.acts import SCENARIOS
from demo.packages import PACKAGES
from demo.recsys.models import PLANS
from demo.recsys.ratings import FIELDS, GENRES, LABEL, TERMS, activity, featurized
from demo.service.models import RECIPES
from model_store.release_spec import load

PEOPLE = pd.DataFrame(
    {"user_id": ["1", "2"], "age": ["17", "56"], "gender": ["F", "M"], "occupation": ["writer", "artist"]}
)
FILMS = pd.DataFrame(
    {"item_id": ["1", "9"], "release_year": ["1995", "unkonwn"], "class": ["Comedy War", "unknown"]}
)


def test_a_rating_becomes_numbers_within_their_fields() -> None:
    ratings = pd.DataFrame({"user_id": ["1", "2"], "item_id": ["9", "1"], "rating": ["4.0", "3"]})
    table = featurized(ratings, FILMS, PEOPLE)
    assert table[list(FIELDS)].to_numpy().tolist() == [[0, 8, 0, 1, 20, 0], [1, 0, 6, 0, 1, 7]]
    assert table[LABEL].tolist() == [1, 0]
    assert [name for name, there in zip(GENRES, table["genres"][1], strict=True) if there] == [
        "Comedy",
        "War",
    ]
    assert (table[list(FIELDS)].max() < pd.Series(FIELDS)).all()


def test_people_are_grouped_by_what_was_known_of_them_in_training() -> None:
    trained_on = pd.Series([1] * 39 + [2] * 40 + [3] * 150)
    groups = activity(pd.Series([1, 2, 3, 4]), trained_on)
    assert groups.tolist() == ["newcomer", "regular", "heavy", "newcomer"]


def test_the_user_is_told_of_the_terms_before_anything_is_fetched() -> None:
    assert [package.terms for package in PACKAGES["recsys"]] == [TERMS]
    assert "research" in TERMS
    assert "redistribution" in TERMS


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_scenarios_spec_releases_its_model_and_is_not_active_by_itself(name: str) -> None:
    scenario = SCENARIOS[name]
    if scenario.spec is not None:
        assert load(scenario.spec).model == scenario.model == scenario.spec.stem
        assert "dags" not in scenario.spec.parts


def test_every_act_of_every_scenario_has_a_version_to_train() -> None:
    trained = {"service": RECIPES, "recsys": PLANS}
    for name, recipes in trained.items():
        assert [act.version for act in SCENARIOS[name].acts] == sorted(recipes)
        assert SCENARIOS[name].faults.startswith(f"{SCENARIOS[name].model}@4:")
        assert all(len(act.story) <= 64 for act in SCENARIOS[name].acts), "the screen cuts longer ones"
