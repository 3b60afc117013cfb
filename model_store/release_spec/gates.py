"""The section on gates: the limits that every candidate must keep, each under the name of what it limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from model_store.release_spec.metric_names import NamedMetric, misnamed
from model_store.release_spec.section import Found, Section
from model_store.types import Task

# By metric: the keys of a section are the fields it has and the names of metrics.
_BY_METRIC = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
DEFAULT_CONFIDENCE = 0.95
FUNCTION = re.compile(r"(?:[^:\s]{1,300}\.py|[A-Za-z_][\w.]{0,199}):[A-Za-z_]\w{0,99}")


class _Limit(Section):
    """Non-inferiority: what the candidate may lose, at `confidence`, and bounds of the value itself.

    `max_drop` of a metric where higher is better (share, not percent). `max_increase` of an error: a share
    of the reference's value where that has a unit (RMSE: 0.01 is one per cent more), else absolute.
    """

    max_drop: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    max_increase: Annotated[float, Field(ge=0, lt=1)] | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = DEFAULT_CONFIDENCE
    min: float | None = None
    max: float | None = None

    @property
    def is_drop(self) -> bool:
        return self.max_drop is not None

    @property
    def allowed(self) -> float:
        """How much may be lost, whichever way it is written."""
        return self.max_drop if self.max_drop is not None else self.max_increase or 0.0

    def contradictions(self) -> list[Found]:
        if self.max_drop is None and self.max_increase is None:
            return [((), "is missing max_drop (or, of an error such as rmse, max_increase)")]
        if self.max_drop is not None and self.max_increase is not None:
            return [(("max_increase",), "either max_drop or, of an error such as rmse, max_increase")]
        if self.min is not None and self.max is not None and self.min > self.max:
            return [(("min",), f"min {self.min} is above max {self.max}: no model can pass")]
        return []


class Margin(_Limit):
    """The limit of one metric."""


class CustomGate(Margin):
    """A metric of the user's own, larger is better: `PATH.py:function`, or `module:function` of a module that
    is installed. It runs in a process of its own, and only if the spec trusts its source. Paths are as
    everywhere in a spec; `max_drop` is in the metric's own unit.
    """

    function: str
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,49}$")] | None = None
    max_drop: Annotated[float, Field(ge=0)] | None = None

    @field_validator("function")
    @classmethod
    def _function_is_named(cls, function: str) -> str:
        if not FUNCTION.fullmatch(function):
            raise ValueError("write it as PATH.py:function or module:function, such as metrics/cost.py:saved")
        return function

    def contradictions(self) -> list[Found]:
        if self.max_increase is not None:
            return [
                (
                    ("max_increase",),
                    "of a custom metric larger is better: return minus it, and write max_drop",
                )
            ]
        return super().contradictions()

    @property
    def title(self) -> str:
        """What its checks are called."""
        return self.name or self.function.rpartition(":")[2].lower()


class MarginByMetric(_Limit):
    """One margin for whatever the task is usually judged by, or one for each metric that is named."""

    model_config = _BY_METRIC
    __pydantic_extra__: dict[str, Margin] = Field(init=False)

    @property
    def by_metric(self) -> dict[str, Margin]:
        """What is written for single metrics; empty where one margin is for all."""
        return dict(self.model_extra or {})

    @property
    def for_all(self) -> Margin | None:
        """The one margin, None where metrics are named."""
        if self.by_metric:
            return None
        said = {"max_drop": self.max_drop, "max_increase": self.max_increase, "confidence": self.confidence}
        return Margin.model_validate({**said, "min": self.min, "max": self.max})

    def contradictions(self) -> list[Found]:
        if not self.by_metric:
            return super().contradictions()
        # By their values: in a record every field is set.
        said = {
            "max_drop": self.max_drop,
            "max_increase": self.max_increase,
            "min": self.min,
            "max": self.max,
        }
        misplaced = [name for name, value in said.items() if value is not None]
        misplaced += ["confidence"] if self.confidence != DEFAULT_CONFIDENCE else []
        return [((name,), "belongs under one of the metrics that are named here") for name in misplaced]


class ChampionMargin(MarginByMetric):
    """Against the version that serves, on the same rows."""


class SliceMargin(MarginByMetric):
    """The same per slice value; slices with fewer rows than `min_rows` are reported, not judged."""

    min_rows: Annotated[int, Field(ge=1)] = 100


class LatencyLimit(Section):
    """Of one row at a time on this machine; `max_ratio` is against the fp32 ONNX model in the same run."""

    max_p99_ms: Annotated[float, Field(gt=0)] | None = None
    max_ratio: Annotated[float, Field(gt=0)] | None = None


class SizeLimit(Section):
    """Of the candidate's model file."""

    max_mb: Annotated[float, Field(gt=0)]


class SignatureLimit(Section):
    """Inputs and outputs against those of the version that serves. `may_break`: the number of that version,
    when its callers are ready for another signature; it allows nothing once another version serves.
    """

    may_break: Annotated[int, Field(ge=1)] | None = None


# What a task is judged by where the spec says nothing else, the main metric first. Each is so wide that a
# model which changes nothing passes it on about 500 rows, or 60 groups (docs/decisions/0120).
_ONE_POINT = Margin(max_drop=0.01)
USUAL: Mapping[Task, Mapping[str, Margin]] = {
    "binary": {"accuracy": _ONE_POINT, "auc": _ONE_POINT},
    "multiclass": {"accuracy": _ONE_POINT, "auc": _ONE_POINT},
    "multilabel": {"f1_macro": Margin(max_drop=0.05)},
    "regression": {"mae": Margin(max_increase=0.05)},
    "ranking": {"ndcg_10": Margin(max_drop=0.05)},
    "custom": {},
}


class Gates(Section):
    """Limits every candidate must keep. Whatever is written here blocks.

    Besides the fields: any metric's name, with its margin. `accuracy` and `auc` have one by default, of a
    classifier; `null` leaves a metric out. `must_beat_trivial`: the original must answer better than whoever
    looks at no input. `may_judge_as_onnx`: where the engine that `serving.runtime` names cannot run on the
    machine that builds, onnxruntime's answers to the same rows stand for its own.
    """

    model_config = _BY_METRIC
    __pydantic_extra__: dict[str, Margin | None] = Field(init=False)

    accuracy: Margin | None = _ONE_POINT
    auc: Margin | None = _ONE_POINT
    custom: tuple[CustomGate, ...] = ()
    slices: SliceMargin | None = None
    champion: ChampionMargin | None = None
    must_beat_trivial: bool = True
    signature: SignatureLimit = SignatureLimit()
    may_judge_as_onnx: bool = False
    latency: LatencyLimit = LatencyLimit()
    size: SizeLimit | None = None
    export_tolerance: Annotated[float, Field(gt=0, le=0.1)] = 1e-4

    @property
    def looks_at_champion(self) -> bool:
        """Whether the version that serves is asked: by the limits of `champion`, or, where the spec does not
        name it, whether the candidate is evidently worse. `champion: null` leaves it out.
        """
        return self.champion is not None or "champion" not in self.model_fields_set

    @property
    def written(self) -> dict[str, Margin | None]:
        """What the spec itself says of metrics; None where it leaves one out."""
        names = [name for name in ("accuracy", "auc") if name in self.model_fields_set]
        said: dict[str, Margin | None] = {name: getattr(self, name) for name in names}
        return {**said, **(self.model_extra or {})}

    def limits(self, task: Task) -> dict[str, Margin]:
        """The margin of each metric that a model of this task is judged by, the main one first."""
        both = {**USUAL[task], **self.written}
        return {name: margin for name, margin in both.items() if margin is not None}

    def contradictions(self) -> list[Found]:
        fields = frozenset(type(self).model_fields)
        found = misnamed(
            [NamedMetric((name,), name, margin) for name, margin in self.written.items()], fields
        )
        for section in ("champion", "slices"):
            margins = getattr(self, section)
            named = [NamedMetric((section, n), n, m) for n, m in margins.by_metric.items()] if margins else []
            found += misnamed(named, frozenset(type(margins).model_fields) if margins else frozenset())
        titles = [one.title for one in self.custom]
        for place, title in enumerate(titles):
            if title in titles[:place] or title in self.written:
                found.append((("custom", place), f"`{title}` is the name of another gate: give it a `name`"))
        return found

    @model_serializer(mode="wrap")
    def _only_what_is_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A default must not come back from a record as if somebody had written it."""
        unsaid = {"accuracy", "auc", "champion"} - self.model_fields_set
        said: dict[str, Any] = dump(self)
        return {name: value for name, value in said.items() if name not in unsaid}
