"""Whether data and gates are those of the task that the spec names."""

from __future__ import annotations

from model_store.errors import Permanent
from model_store.release_spec.before_traffic import Data
from model_store.release_spec.gates import Gates
from model_store.release_spec.section import Found
from model_store.types import Task


def contradictions_of_the_task(task: Task | None, data: Data, gates: Gates) -> list[Found]:
    """What does not belong to this task; nothing while the spec leaves the task to the model."""
    if task is None:
        return []
    found: list[Found] = []
    if (task == "multilabel") != (len(data.labels) > 1):
        wanted = "a list of columns, one for each label" if task == "multilabel" else "one column"
        found.append((("data", "label"), f"a {task} task has {wanted}"))
    if task == "ranking" and data.group is None:
        found.append(
            (("data", "group"), "a ranking needs the column that says which rows are ranked together")
        )
    if task == "custom" and not gates.custom:
        found.append((("gates",), "a custom task is judged by gates.custom alone, and there is none"))
    wrong = unfit(task, gates)
    return found + [(("gates", name), remark) for name, remark in wrong.items()]


def unfit(task: Task, gates: Gates) -> dict[str, str]:
    """The metrics written under `gates` that a model of this task cannot be judged by, and why not."""
    from model_store.metrics.registry import known, metric

    found = {}
    for name, margin in gates.written.items():
        try:
            tasks = metric(name).tasks
        except Permanent:
            continue  # told where names are looked at
        if margin is not None and task not in tasks:
            there_are = ", ".join(known(task)) or "gates.custom"
            found[name] = f"is not for a {task} task, which is judged by: {there_are}"
    return found
