"""The whole release spec."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from model_store.release_spec.answers import Classes, Outputs, words_of
from model_store.release_spec.as_logged import contradictions_as_logged, filled_in
from model_store.release_spec.before_traffic import Build, Data, Source
from model_store.release_spec.fits_task import contradictions_of_the_task
from model_store.release_spec.freeze import STORED, Freeze
from model_store.release_spec.gates import Gates
from model_store.release_spec.in_traffic import Approval, Rollout, Serving
from model_store.release_spec.notify import Notify
from model_store.release_spec.schedule import refuse_bad_schedule
from model_store.release_spec.section import Found, Section, repeated
from model_store.types import Precision, TargetName, Task

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


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
