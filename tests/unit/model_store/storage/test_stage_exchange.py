"""What a stage elsewhere is asked and answers, as objects of one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_store.errors import Permanent, Retryable
from model_store.stage_exchange import RemoteStage, ask
from model_store.steps import store_result
from model_store.storage.memory import MemoryStorage
from model_store.storage.shared import Shared
from model_store.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, shared=Shared(MemoryStorage()))


def asked(store: Store, stage: str = "gate", **handed_on: Any) -> RemoteStage:
    return ask(store, "fraud-v3-now", stage, lambda: {"spec": "s"}, handed_on)


def answer(one: RemoteStage, **said: Any) -> None:
    storage, key = one.store.shared.storage, one.output_url.removeprefix(f"{one.storage_url}/")  # type: ignore[union-attr]
    storage.put(key, json.dumps({"stage": one.stage, **said}).encode())


def test_a_stage_has_passed_by_its_answer_alone(store: Store) -> None:
    one = asked(store)
    assert (one.made(), one.failure()) == (None, None)
    value = store_result(store, {"report": 1})
    answer(one, status="done", value=value, words="passed")
    assert one.made() == (value, "passed")
    # Asked otherwise, or in another run, it has not.
    assert asked(store, exported="sha256:b").made() is None
    assert ask(store, "fraud-v3-later", "gate", lambda: {"spec": "s"}, {}).made() is None


def test_an_answer_counts_only_while_the_store_has_what_it_names(store: Store) -> None:
    one = asked(store)
    answer(one, status="done", value="sha256:" + "0" * 64)
    assert one.made() is None


def test_an_answer_to_something_else_is_none(store: Store) -> None:
    one = asked(store)
    answer(one, status="done", value=store_result(store, {}))
    said = one.store.shared.storage.get(one.output_url.removeprefix(f"{one.storage_url}/"))  # type: ignore[union-attr]
    other = asked(store, stage="compile")
    store.shared.storage.put(other.output_url.removeprefix(f"{one.storage_url}/"), said)  # type: ignore[union-attr]
    assert other.made() is None


def test_what_a_stage_refuses_is_told_apart_from_what_may_pass(store: Store) -> None:
    one = asked(store)
    answer(one, status="refused", problem="no rows", remedy="add some")
    assert isinstance(one.failure(), Permanent)
    answer(one, status="retry", problem="the storage is away", remedy="wait", delay_seconds=7)
    failure = one.failure()
    assert isinstance(failure, Retryable)
    assert failure.delay_seconds == 7
    one.forget_answer()
    assert one.failure() is None


def test_what_all_stages_are_asked_with_is_made_once_for_a_run(store: Store) -> None:
    made: list[int] = []

    def common() -> dict[str, Any]:
        made.append(1)
        return {"spec": len(made)}

    first = ask(store, "run", "quantize", common, {"variant": "a"})
    assert ask(store, "run", "quantize", common, {"variant": "a"}) == first
    assert made == [1]
    assert ask(store, "run", "quantize", common, {"variant": "a"}, anew=True) != first


def test_a_store_that_is_a_folder_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="SLIPWAY_STORAGE_URL"):
        ask(Store(tmp_path), "run", "export", dict, {})
