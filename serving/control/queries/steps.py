"""The timeline of a release: the steps of its DAG run, with what came of them and how long they took."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import quote

from serving.control.queries.runs import RunSnapshot, TaskSnapshot
from serving.control.queries.views import StepRow

# As `dags/model_release.py` tells them; a step that is not named here comes before the settlement.
ORDER = (
    "take_turn", "export", "check_data", "quantize", "compile", "gate", "choose", "publish",
    "approve_1", "approve_2", "approve_3", "roll_out", "promote", "settle",
)  # fmt: skip

_WORDS = {
    "success": "done",
    "failed": "failed",
    "upstream_failed": "not run",
    "skipped": "skipped",
    "removed": "not run",
    "running": "running",
    "restarting": "running",
    "queued": "starting",
    "scheduled": "starting",
    "deferred": "waiting",
    "awaiting_input": "waits for people",
    "up_for_retry": "tries again",
    "up_for_reschedule": "waiting",
    "none": "to come",
}
# Of a step with several parts, the part that most wants to be seen decides.
_NEVER_RUN = ("upstream_failed", "skipped", "removed")
_WORST_FIRST = (
    "failed",
    "tries again",
    "running",
    "starting",
    "waits for people",
    "waiting",
    "to come",
    "done",
)


def step_rows(run: RunSnapshot, *, dag_id: str, run_id: str, at: datetime) -> tuple[StepRow, ...]:
    """In the order of the DAG. The bars' scale ends before the settlement."""
    grouped: dict[str, list[TaskSnapshot]] = {}
    for task in run.tasks:
        grouped.setdefault(task.task_id, []).append(task)
    started = [task.started_at for task in run.tasks if task.started_at]
    begin = min([*started, *filter(None, [run.started_at])], default=at)
    measured = [task for task in run.tasks if not task.task_id.endswith("settle")]
    end = max([_end(task, at) for task in measured if task.started_at], default=at)
    whole = max((end - begin).total_seconds(), 1.0)
    rows = [
        _row(name, tasks, dag_id=dag_id, run_id=run_id, at=at, begin=begin, whole=whole)
        for name, tasks in grouped.items()
    ]
    return tuple(sorted(rows, key=_place))


def _row(
    name: str,
    tasks: Sequence[TaskSnapshot],
    *,
    dag_id: str,
    run_id: str,
    at: datetime,
    begin: datetime,
    whole: float,
) -> StepRow:
    # Airflow gives what it never ran a start and an end all the same.
    tasks_run = [task for task in tasks if task.state not in _NEVER_RUN]
    started = min((task.started_at for task in tasks_run if task.started_at), default=None)
    ended = max((_end(task, at) for task in tasks_run if task.started_at), default=None)
    group, _, short = name.rpartition(".")
    states = [_WORDS.get(task.state, task.state) for task in tasks]
    offset = min((started - begin).total_seconds() / whole, 1.0) if started else 0.0
    seconds = (ended - started).total_seconds() if started and ended else None
    is_mapped = any(task.map_index >= 0 for task in tasks)
    url = f"/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}/tasks/{quote(name, safe='')}"
    return StepRow(
        name=short.replace("_", " "),
        group=group,
        state=next((state for state in _WORST_FIRST if state in states), states[0]),
        words="; ".join(dict.fromkeys(task.words for task in tasks_run if task.words)),
        started_at=started,
        seconds=seconds,
        offset=offset,
        share=min((seconds or 0.0) / whole, 1.0 - offset),
        tries=max(task.tries for task in tasks),
        url=f"{url}/mapped" if is_mapped else url,
        parts=len(tasks),
    )


def _end(task: TaskSnapshot, at: datetime) -> datetime:
    return task.ended_at or at


def _place(row: StepRow) -> tuple[int, str]:
    name = row.name.replace(" ", "_")
    return (ORDER.index(name), name) if name in ORDER else (ORDER.index("roll_out") - 1, name)
