"""The sections on models and rows: what is released, and by which labelled rows it is judged."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from model_store.release_spec.freeze import STORED
from model_store.release_spec.kubernetes import BuildKubernetes
from model_store.release_spec.section import Found, Section, Share, repeated

ALIAS = re.compile(r"[A-Za-z0-9_-]{1,64}")

# What a release can start from, the safest first: ONNX is read, the others run their author's code,
# and what no other fits is served as it is.
Flavor = Literal["onnx", "sklearn", "xgboost", "lightgbm", "catboost", "pytorch", "pyfunc"]
# What runs code when it is loaded: scikit-learn's three forms, and flavours that bring libraries or code.
CodeFormat = Literal["pickle", "cloudpickle", "skops", "xgboost", "lightgbm", "catboost", "pytorch", "pyfunc"]


class Source(Section):
    """Where the model comes from. Any flavour but ONNX is converted by executing the model's own code; pyfunc
    is not converted, and runs that code in the pods.

    `flavor`: which of those that the model was logged with; None: whichever can be exported, and where
    `allow` names pyfunc, the model as it was logged beside it. `allow`: formats whose loading may run code.
    `trusted`: metrics of one's own may; and, as long as `allow` is empty, every format.
    """

    flavor: Flavor | None = None
    trusted: bool = False
    allow: tuple[CodeFormat, ...] = ()
    skops_trusted_types: tuple[str, ...] = ()
    alias: str = "candidate"
    max_size_mb: Annotated[float, Field(gt=0)] = 2048

    def allows(self, format: str) -> bool:
        """Whether a model in this format may be loaded, which runs its author's code."""
        return format in self.allow or self.allows_every_format

    @property
    def allows_every_format(self) -> bool:
        """By `trusted` alone, as specs did before there was `allow`: whoever is released so is told."""
        return self.trusted and not self.allow

    def contradictions(self) -> list[Found]:
        return repeated("allow", self.allow)

    @field_validator("alias")
    @classmethod
    def _alias_is_ours_to_read(cls, alias: str) -> str:
        if alias == "champion":
            raise ValueError("`champion` is the alias a release moves; name the one your training sets")
        if not ALIAS.fullmatch(alias) or alias == "latest" or re.fullmatch(r"v\d+", alias):
            raise ValueError("MLflow takes 1-64 letters, digits, '_' and '-', not `latest` and not `v1`")
        return alias


# Where stages of a build can run, and the package that a place needs.
PLACES = {"local": "", "kubernetes": "kubernetes"}


class Build(Section):
    """`place`: where export, quantize, compile and gate run. `local`: where Airflow's workers are;
    `kubernetes`: each in a pod of its own, as the section `kubernetes` says.
    """

    place: str = "local"
    kubernetes: BuildKubernetes | None = None

    @field_validator("place")
    @classmethod
    def _place_is_there(cls, place: str, about: ValidationInfo) -> str:
        if about.context == STORED:
            return place
        if place not in PLACES:
            raise ValueError(f"nothing is built at `{place}` here; there is: {', '.join(PLACES)}")
        if (package := PLACES[place]) and find_spec(package) is None:
            raise ValueError(f"`{place}` needs: pip install 'slipway[{package}]'")
        return place

    def contradictions(self) -> list[Found]:
        if self.kubernetes and self.place == "local":
            return [(("kubernetes",), "the stages run on `local`: set `place: kubernetes`")]
        return []


class Column(Section):
    """What Great Expectations checks of one column."""

    min: float | None = None
    max: float | None = None
    values: tuple[str, ...] | None = None
    nullable: bool = False

    def contradictions(self) -> list[Found]:
        if self.values is not None and (self.min is not None or self.max is not None):
            return [(("values",), "a column has either `values` or a range")]
        if self.min is not None and self.max is not None and self.min > self.max:
            return [(("min",), f"min {self.min} is above max {self.max}: no value can pass")]
        return []


class Data(Section):
    """Labelled rows for the gates and for calibration (.parquet or .csv; `${SLIPWAY_HOME}` is expanded).

    `inputs` maps each tensor name to its columns (scalars, stacked in order) or to one list-valued column.
    Without it, the one input takes every column that is neither label, group, slice nor `ignore`. `label`:
    one column, or one of 0 and 1 for each label of a multilabel model. `group`: which rows a ranking orders
    together.
    """

    evaluation: str
    calibration: str
    label: str | Annotated[tuple[str, ...], Field(min_length=2)]
    group: str | None = None
    positive: str | int = 1
    inputs: dict[str, tuple[str, ...] | str] | None = None
    slices: tuple[str, ...] = ()
    max_slice_values: Annotated[int, Field(ge=1)] = 100
    ignore: tuple[str, ...] = ()
    columns: dict[str, Column] = Field(default_factory=dict)
    min_rows: Annotated[int, Field(ge=1)] = 200
    min_positive_share: Share = 0.01
    max_positive_share: Share = 0.99
    max_leaked_share: Share = 0.0

    @field_validator("evaluation", "calibration")
    @classmethod
    def _file_is_a_table(cls, path: str) -> str:
        if not path.endswith((".parquet", ".csv")):
            raise ValueError("a .parquet or .csv file")
        return path

    def contradictions(self) -> list[Found]:
        found = repeated("slices", self.slices) + repeated("ignore", self.ignore)
        if self.evaluation == self.calibration:
            found.append((("calibration",), "calibration rows may not be evaluation rows: use another file"))
        if self.min_positive_share > self.max_positive_share:
            found.append((("min_positive_share",), f"above max_positive_share {self.max_positive_share}"))
        for tensor, columns in (self.inputs or {}).items():
            fed = (columns,) if isinstance(columns, str) else columns
            for label in (label for label in self.labels if label in fed):
                found.append((("inputs", tensor), f"feeds the label `{label}` to the model"))
        return found + (repeated("label", self.labels) if len(self.labels) > 1 else [])

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns that hold what is right: one, or one for each label of a multilabel model."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def spoken_for(self) -> frozenset[str]:
        """Columns that are never fed to the model."""
        grouped = {self.group} if self.group else set()
        return frozenset({*self.labels, *grouped, *self.slices, *self.ignore})
