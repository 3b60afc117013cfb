"""The whole release spec, and whether its parts belong together."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from model_store.errors import Permanent
from model_store.release_spec.as_logged import contradictions_as_logged, filled_in
from model_store.release_spec.before_traffic import Build, Data, Source
from model_store.release_spec.freeze import STORED, Freeze
from model_store.release_spec.gates import Gates
from model_store.release_spec.in_traffic import Approval, Rollout, Serving
from model_store.release_spec.notify import Notify
from model_store.release_spec.section import Found, Section, repeated
from model_store.types import Precision, TargetName, Task

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# Airflow's own names (airflow.utils.dates.cron_presets); the rest is croniter's, as in Airflow's timetable.
PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
REMEDY = f"five fields as in crontab (`0 3 * * *`: daily at 3:00 UTC), or one of {', '.join(PRESETS)}"

Word = str | int | float | bool
Classes = Annotated[tuple[Word, ...], Field(min_length=2)] | Annotated[dict[str, Word], Field(min_length=2)]


class Outputs(Section):
    """What the model does not say of its answers itself. Which ONNX output is what: `label` what the model
    decides, `scores` how sure it is, `value` a number.

    `threshold`: of a single score (or each of a multilabel model's), above which the answer is yes.
    """

    label: str | None = None
    scores: str | None = None
    value: str | None = None
    threshold: float | None = None


class ReleaseSpec(Section):
    """Everything Slipway must know to release one model."""

    model: str
    description: str = ""
    owner: str = ""
    source: Source
    data: Data
    task: Task | None = None
    outputs: Outputs = Outputs()
    classes: Classes | None = None
    precisions: tuple[Precision, ...] = Field(default=("fp32", "fp16", "int8"), min_length=1)
    targets: tuple[TargetName, ...] = Field(default=("onnxruntime", "tensorrt_rtx"), min_length=1)
    prefer: Literal["latency", "size", "order"] = "latency"
    build: Build = Build()
    gates: Gates = Gates()
    serving: Serving = Serving()
    rollout: Rollout
    approval: Approval | None = None
    schedule: str | None = None
    deadline_seconds: Annotated[float, Field(gt=0)] | None = None
    notify: tuple[Notify, ...] = ()
    freezes: tuple[Freeze, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_the_flavour_decides(cls, written: Any) -> Any:
        return filled_in(written)

    @field_validator("model")
    @classmethod
    def _name_is_safe(cls, name: str) -> str:
        if not MODEL_NAME.fullmatch(name) or ".." in name:
            raise ValueError(
                "1-100 of letters, digits, '_', '-', '.', starting with a letter or digit, no '..'"
            )
        return name

    @field_validator("schedule")
    @classmethod
    def _schedule_comes_round(cls, schedule: str | None, about: ValidationInfo) -> str | None:
        is_stored = about.context == STORED
        return schedule if schedule is None or is_stored else refuse_bad_schedule(schedule)

    def contradictions(self) -> list[Found]:
        found = repeated("precisions", self.precisions) + repeated("targets", self.targets)
        found += repeated("classes", list(map(str, words_of(self.classes))))
        found += contradictions_of_the_task(self.task, self.data, self.gates)
        found += contradictions_as_logged(self.source, self.precisions, self.targets, self.serving.runtime)
        runtime, timeout, p99 = self.serving.runtime, self.serving.timeout_ms, self.gates.latency.max_p99_ms
        if runtime not in self.targets:
            found.append((("serving", "runtime"), f"`{runtime}` is not among targets {list(self.targets)}"))
        if self.is_served_as_logged and self.gates.latency.max_ratio is not None:
            wrong = "flavor pyfunc has no fp32 model to be compared with: limit max_p99_ms"
            found.append((("gates", "latency", "max_ratio"), wrong))
        if self.serving.max_memory_mb and "original" not in self.precisions:
            wrong = "only a model that is served as it was logged has a process of its own"
            found.append((("serving", "max_memory_mb"), wrong))
        if self.gates.slices and not self.data.slices:
            found.append((("gates", "slices"), "data.slices names no column to slice by"))
        if p99 is not None and p99 > timeout:
            found.append((("gates", "latency", "max_p99_ms"), f"above serving.timeout_ms {timeout}"))
        if self.rollout.analysis.max_disagreement is not None and not self.serving.request_log:
            wrong = "needs serving.request_log: recorded requests are what both versions are asked"
            found.append((("rollout", "analysis", "max_disagreement"), wrong))
        return found

    @property
    def is_served_as_logged(self) -> bool:
        """In no other way: without export and quantization, by a process of its own Python."""
        return self.precisions == ("original",)

    def runtime_of(self, precision: Precision) -> TargetName:
        """Which of the targets pods run where this candidate is served."""
        return "python" if precision == "original" else self.serving.runtime

    def targets_of(self, precision: Precision) -> tuple[TargetName, ...]:
        """For which of the targets this candidate is built."""
        is_original = precision == "original"
        return tuple(one for one in self.targets if (one == "python") == is_original)

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of what the spec says; comments and order of fields do not count."""
        said = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(said.encode()).hexdigest()


def words_of(classes: Classes | None) -> tuple[Word, ...]:
    """The file's words, in the order in which the model counts its classes."""
    if classes is None:
        return ()
    return tuple(classes.values()) if isinstance(classes, Mapping) else classes


def refuse_bad_schedule(schedule: str) -> str:
    """Return `schedule` unchanged. Raises `ValueError` when cron cannot read it or it never comes round."""
    if schedule in PRESETS:
        return schedule
    if len(schedule.split()) != 5:
        raise ValueError(f"not a cron schedule; {REMEDY}")
    # Here, because most specs have no schedule and need not wait for the import.
    from croniter import CroniterBadDateError, croniter

    try:
        croniter(schedule, start_time=0.0).get_next(float)
    except CroniterBadDateError as never:
        raise ValueError(f"this date never comes; {REMEDY}") from never
    except ValueError as unreadable:
        raise ValueError(f"not a cron schedule ({unreadable}); {REMEDY}") from unreadable
    return schedule


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
