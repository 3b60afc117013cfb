"""`@step`: TaskFlow for release steps. It adds to `@task` what every step needs and nothing else.

A step's failure is translated (`failures.explained`), it has the links of `links`, and its own working time
goes into XCom, so that `benchmarks/release_overhead.py` can tell Slipway's work from Airflow's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast, overload

from airflow.sdk.bases.decorator import DecoratedOperator, task_decorator_factory

from slipway_airflow import links
from slipway_airflow.failures import RetryByKind, translating_failures

if TYPE_CHECKING:
    from airflow.sdk import Context

SECONDS = "seconds"
LABEL = "label"
# Names a mapped instance by what came of it; until then by its number.
BY_LABEL = "{{ label | default('') }}"
# PostgreSQL refuses more (`task_instance.rendered_map_index`), and Airflow fails the task; SQLite takes any.
LONGEST_LABEL = 250


class StepOperator(DecoratedOperator):
    """Runs the decorated function with the arguments it names, from the DAG and from Airflow's context.

    A function that returns a `StepResult` hands on the value and tells the words.
    """

    custom_operator_name = "@step"
    operator_extra_links = links.ALL
    ui_color = "#e8f1fb"

    def execute(self, context: Context) -> Any:
        links.forget(self)
        self.op_kwargs = dict(self.determine_kwargs({**context, **self.op_kwargs}))
        with translating_failures(context), working_time(context):
            return self._told(context, self.python_callable(*self.op_args, **self.op_kwargs))

    def _told(self, context: Context, result: Any) -> Any:
        words = getattr(result, "words", None)
        if words is None:
            return result
        self.log.info("%s", words)
        label(context, words)
        return result.value


def label(context: Context, words: str) -> None:
    """Name a mapped instance by these words, as many of them as Airflow keeps."""
    kept = words if len(words) <= LONGEST_LABEL else f"{words[: LONGEST_LABEL - 1]}…"
    cast("dict[str, Any]", context)[LABEL] = kept


class working_time:  # noqa: N801 - a context manager, read as a phrase
    """Puts the span of the task's own work into XCom: [start, end] in seconds since the epoch."""

    def __init__(self, context: Context, key: str = SECONDS) -> None:
        self._ti = context["ti"]
        self._key = key

    def __enter__(self) -> None:
        self._started = time.time()

    def __exit__(self, *_: object) -> None:
        self._ti.xcom_push(self._key, [self._started, time.time()])


class DecoratedStep(Protocol):
    """A decorated function in a DAG: its arguments are not what it takes when it runs, but XComs of that."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def partial(self, **kwargs: Any) -> DecoratedStep: ...

    def expand(self, **kwargs: Any) -> Any: ...

    def override(self, **kwargs: Any) -> DecoratedStep: ...


@overload
def step(function: Callable[..., Any]) -> DecoratedStep: ...


@overload
def step(**kwargs: Any) -> Callable[[Callable[..., Any]], DecoratedStep]: ...


def step(function: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """Make a task of a function. Takes any operator's arguments (`retries`, `map_index_template`, ...)."""
    kwargs.setdefault("retry_policy", RetryByKind())
    return task_decorator_factory(
        python_callable=function,
        multiple_outputs=False,
        decorated_operator_class=StepOperator,
        **kwargs,
    )
