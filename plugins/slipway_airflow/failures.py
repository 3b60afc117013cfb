"""The one place where Slipway's errors become Airflow's.

`Permanent` fails the task at once, `Retryable` asks for another try after its own delay (doubled each time),
and both leave their words in XCom, where the task that settles a failed release finds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
    AirflowTaskTimeout,
)

from model_store.errors import Permanent, Retryable, SlipwayError
from model_store.unwritable import unwritable

if TYPE_CHECKING:
    from airflow.sdk import Context

FAILURE = "failure"
LONGEST_DELAY_SECONDS = 60.0
LONGEST_REASON = 2000
CONTROL_FLOW = (AirflowSkipException, AirflowRescheduleException)


class RetryByKind(RetryPolicy):
    """Decides from the error itself, where Airflow would only count tries.

    Airflow still ends a task after `retries`; what is neither `Permanent` nor `Retryable` (a bug) gets
    Airflow's standard treatment.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        if isinstance(exception, Permanent):
            return RetryDecision.fail(str(exception))
        if isinstance(exception, Retryable):
            seconds = min(exception.delay_seconds * 2 ** (try_number - 1), LONGEST_DELAY_SECONDS)
            return RetryDecision.retry(timedelta(seconds=seconds), str(exception))
        return RetryDecision.default()


@contextmanager
def translating_failures(context: Context) -> Iterator[None]:
    """Run a task's body: its failure leaves a reason behind and has the kind Airflow understands."""
    try:
        yield
    except CONTROL_FLOW:
        raise
    except Permanent as error:
        leave_reason(context, error)
        raise AirflowFailException(str(error)) from error
    except (Exception, AirflowTaskTimeout) as error:
        if why := unwritable(error):
            leave_reason(context, why)
            raise why from error
        leave_reason(context, error)
        raise


def leave_reason(context: Context, error: BaseException) -> None:
    """Put the error's words where `reasons` finds them. Airflow clears them when the task tries again."""
    context["ti"].xcom_push(FAILURE, message_of(error))


def message_of(error: BaseException) -> str:
    """The error as one text. Unexpected ones carry their type, which Slipway's own do not need."""
    words = str(error) if isinstance(error, SlipwayError | AirflowFailException) else describe(error)
    return words[:LONGEST_REASON]


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def reasons(context: Context) -> dict[str, str]:
    """What the failed tasks of this run said, by task id. A task that died without a word is named too."""
    ti = context["ti"]
    found: dict[str, str] = {}
    for task_id in _failed_tasks(context):
        said = [text for text in ti.xcom_pull(task_ids=[task_id], key=FAILURE) or () if text]
        found[task_id] = said[0] if said else f"{task_id} ended without a word; its log may know more"
    return found


def _failed_tasks(context: Context) -> list[str]:
    """In the order of the DAG, each once however many mapped instances failed."""
    # The protocol Airflow types a task instance by leaves this method out.
    ti: Any = context["ti"]
    ended = ti.get_task_breadcrumbs(dag_id=ti.dag_id, run_id=ti.run_id)
    failed = {task["task_id"] for task in ended if task["state"] == "failed"}
    return [task_id for task_id in context["dag"].task_ids if task_id in failed]
