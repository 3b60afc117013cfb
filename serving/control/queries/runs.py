"""What the page asks of Airflow: `books.airflow_runs` answers from Airflow's database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

# DAG id, run id.
RunKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class TaskWaiting:
    """A task that waits for something of Airflow's. `state`: scheduled, queued, deferred or up_for_retry.

    `failure`: why its last try failed, if it is to be tried again.
    """

    task_id: str
    state: str
    pool: str
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """What of Airflow itself can keep a release from going on.

    `dags`: whether each DAG that it has is paused; `unreadable`: by file, why it cannot be read; `silent`:
    parts that are down, and when they were last heard of; `full_pools`: how many slots those without a free
    one have; `runs`: whether each run that is not over is queued or running; `waiting`: by run, its tasks
    that wait.
    """

    dags: Mapping[str, bool] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    full_pools: Mapping[str, int] = field(default_factory=dict)
    runs: Mapping[RunKey, str] = field(default_factory=dict)
    waiting: Mapping[RunKey, tuple[TaskWaiting, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """One task instance. `words` is what a mapped instance is called after what came of it."""

    task_id: str
    map_index: int
    state: str
    started_at: datetime | None
    ended_at: datetime | None
    tries: int
    words: str


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """A release's DAG run. `gated`: digests of the gates' results so far, `bundle_id` once published."""

    state: str
    started_at: datetime | None
    ended_at: datetime | None
    tasks: tuple[TaskSnapshot, ...]
    gated: tuple[str, ...]
    bundle_id: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a task asks people, and who may answer."""

    dag_id: str
    run_id: str
    task_id: str
    subject: str
    asked_at: datetime
    until: datetime | None
    who_may: tuple[str, ...]
    bundle_id: str = ""


@dataclass(frozen=True, slots=True)
class ModelDag:
    """The DAG that releases a model."""

    dag_id: str
    description: str
    is_paused: bool
    schedule: str = ""
    tags: Sequence[str] = field(default=())


class Runs(Protocol):
    """The port to Airflow."""

    def run(self, dag_id: str, run_id: str) -> RunSnapshot | None:
        """A run with its tasks, None when Airflow has none of that name (any more)."""
        ...

    def questions(self) -> list[Question]:
        """Everything of releases that waits for people, the oldest first."""
        ...

    def situation(self) -> Situation:
        """What of Airflow can keep releases from going on; and every run of theirs that is not over."""
        ...

    def models(self) -> dict[str, ModelDag]:
        """By model, every DAG that releases one."""
        ...


def by_run(questions: Iterable[Question]) -> Mapping[tuple[str, str], Question]:
    """The newest question of each run."""
    return {(question.dag_id, question.run_id): question for question in questions}
