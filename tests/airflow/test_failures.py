"""Slipway's errors as Airflow sees them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk.definitions.retry_policy import RetryAction
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from slipway_airflow.failures import FAILURE, RetryByKind, reasons, translating_failures

from model_store.errors import Permanent, Retryable


class FakeTaskInstance:
    """Remembers what a task pushes; answers what other tasks of the run pushed and how they ended."""

    dag_id, run_id = "release_fraud", "manual__1"

    def __init__(self, ended: dict[str, str] | None = None, said: dict[str, list[str]] | None = None) -> None:
        self.pushed: dict[str, Any] = {}
        self._ended, self._said = ended or {}, said or {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, *, task_ids: list[str], key: str) -> list[str] | None:
        assert key == FAILURE
        return self._said.get(task_ids[0])

    def get_task_breadcrumbs(self, *, dag_id: str, run_id: str) -> list[dict[str, str]]:
        return [{"task_id": task_id, "state": state} for task_id, state in self._ended.items()]


class FakeDag:
    task_ids = ("intake.export", "candidates.gate", "rollout.deploy")


def context(ti: FakeTaskInstance) -> Any:
    return {"ti": ti, "dag": FakeDag()}


def test_a_permanent_error_fails_the_task_without_another_try() -> None:
    with (
        pytest.raises(AirflowFailException, match="the file is garbage"),
        translating_failures(context(FakeTaskInstance())),
    ):
        raise Permanent("the file is garbage", remedy="export it again")


def test_a_retryable_error_stays_itself_so_that_the_policy_sees_its_delay() -> None:
    with pytest.raises(Retryable), translating_failures(context(FakeTaskInstance())):
        raise Retryable("MLflow is down", remedy="start it")


@pytest.mark.parametrize(
    "error",
    [Permanent("no", remedy="fix it"), Retryable("not now", remedy="wait"), ZeroDivisionError("by zero")],
)
def test_every_failure_leaves_its_words_with_the_remedy(error: Exception) -> None:
    ti = FakeTaskInstance()
    with pytest.raises(Exception, match=r"no|not now|by zero"), translating_failures(context(ti)):
        raise error
    assert str(error) in ti.pushed[FAILURE]


def test_a_bug_is_told_with_its_type() -> None:
    ti = FakeTaskInstance()
    with pytest.raises(KeyError), translating_failures(context(ti)):
        raise KeyError("slots")
    assert ti.pushed[FAILURE] == "KeyError: 'slots'"


def test_skipping_is_no_failure() -> None:
    ti = FakeTaskInstance()
    with pytest.raises(AirflowSkipException), translating_failures(context(ti)):
        raise AirflowSkipException("superseded")
    assert ti.pushed == {}


def test_a_task_that_succeeds_leaves_no_words() -> None:
    ti = FakeTaskInstance()
    with translating_failures(context(ti)):
        pass
    assert ti.pushed == {}


@pytest.mark.parametrize(("try_number", "seconds"), [(1, 5), (2, 10), (3, 20), (9, 60)])
def test_a_retry_waits_as_long_as_the_error_says_and_twice_as_long_each_time(
    try_number: int, seconds: int
) -> None:
    decision = RetryByKind().evaluate(Retryable("down", remedy="wait", delay_seconds=5), try_number, 9)
    assert (decision.action, decision.retry_delay) == (RetryAction.RETRY, timedelta(seconds=seconds))


def test_a_permanent_error_is_never_retried() -> None:
    assert RetryByKind().evaluate(Permanent("no", remedy="fix"), 1, 9).action is RetryAction.FAIL


def test_a_bug_gets_airflows_own_treatment() -> None:
    assert RetryByKind().evaluate(ZeroDivisionError(), 1, 9).action is RetryAction.DEFAULT


def test_reasons_are_told_in_the_order_of_the_dag_once_for_all_mapped_instances() -> None:
    ti = FakeTaskInstance(
        ended={"rollout.deploy": "failed", "candidates.gate": "failed", "intake.export": "success"},
        said={"candidates.gate": ["int8 lost 3 points", "fp16 lost 2 points"], "rollout.deploy": ["no pod"]},
    )
    assert reasons(context(ti)) == {"candidates.gate": "int8 lost 3 points", "rollout.deploy": "no pod"}


def test_a_task_that_died_without_a_word_is_named() -> None:
    ti = FakeTaskInstance(ended={"rollout.deploy": "failed"})
    assert "rollout.deploy ended without a word" in reasons(context(ti))["rollout.deploy"]
