"""What the page asks of Airflow: `books.airflow_runs` answers from Airflow's database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TaskSeen:
    """One task instance. `words` is what a mapped instance is called after what came of it."""

    task_id: str
    map_index: int
    state: str
    started_at: datetime | None
    ended_at: datetime | None
    tries: int
    words: str


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A release's DAG run. `gated`: digests of the gates' results so far, `bundle_id` once published."""

    state: str
    started_at: datetime | None
    ended_at: datetime | None
    tasks: tuple[TaskSeen, ...]
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

    def run(self, dag_id: str, run_id: str) -> RunSeen | None:
        """A run with its tasks, None when Airflow has none of that name (any more)."""
        ...

    def questions(self) -> list[Question]:
        """Everything of releases that waits for people, the oldest first."""
        ...

    def going(self) -> frozenset[tuple[str, str]]:
        """(DAG id, run id) of every run of a release that is queued or running."""
        ...

    def models(self) -> dict[str, ModelDag]:
        """By model, every DAG that releases one."""
        ...


def by_run(questions: Iterable[Question]) -> Mapping[tuple[str, str], Question]:
    """The newest question of each run."""
    return {(question.dag_id, question.run_id): question for question in questions}
