"""The `MLmodel` file beside a logged model: its flavours, its files and its signature. Executes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from model_store.export.base import NotExportable
from model_store.types import Datatype

# What MLflow signatures call types, as the Open Inference Protocol does.
DATATYPES: dict[str, Datatype] = {
    "bool": "BOOL", "boolean": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32",
    "uint64": "UINT64", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "integer": "INT32", "long": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "float": "FP32", "double": "FP64", "string": "BYTES", "str": "BYTES", "object": "BYTES",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """One input or output of a signature: a tensor (with `shape`) or a column of a table (without).

    `datatype` is None for types that no tensor has, such as dates; `name` is empty for an unnamed tensor.
    `items`: of a column of lists, the type of what is in them.
    """

    name: str
    datatype: Datatype | None
    shape: tuple[int, ...] | None
    written: str
    items: str = ""
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class LoggedSignature:
    """What the model's author said it takes and gives. `is_of_rows`: nothing was said, and these are the
    evaluation rows' columns.
    """

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    is_of_rows: bool = False


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A downloaded model folder."""

    folder: Path
    flavors: dict[str, dict[str, Any]]
    signature: LoggedSignature | None
    # The whole of MLmodel.
    written: dict[str, Any] = field(default_factory=dict)

    def flavor(self, name: str) -> dict[str, Any]:
        """The settings of one flavour. Raises `Permanent` listing those there are."""
        if name not in self.flavors:
            raise NotExportable(
                f"the version was not logged as {name}; its flavours are {', '.join(sorted(self.flavors))}",
                remedy=f"log it with mlflow.{name}.log_model, or correct source.flavor in the spec;"
                " pyfunc serves any of them as it is",
            )
        return self.flavors[name]

    def file(self, relative: str) -> Path:
        """A file the MLmodel names. Raises `Permanent` when it is missing or leads out of the folder."""
        path = (self.folder / relative).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise NotExportable(
                f"MLmodel names `{relative}`, outside its folder", remedy="log the model again"
            )
        if not path.is_file():
            raise NotExportable(f"MLmodel names `{relative}`, which is not there", remedy="log it again")
        return path


def read_mlmodel(folder: Path) -> LoggedModel:
    """Read `folder/MLmodel`. Raises `Permanent` when it is missing or not one."""
    path = folder / "MLmodel"
    try:
        content = yaml.safe_load(path.read_text())
        flavors = {str(name): dict(settings or {}) for name, settings in content["flavors"].items()}
        signature = _signature(content.get("signature"))
    except FileNotFoundError as error:
        raise NotExportable(f"{folder} has no MLmodel file", remedy="log the model with MLflow") from error
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotExportable(f"{path} cannot be read: {error}", remedy="log the model again") from error
    return LoggedModel(folder, flavors, signature, content)


def _signature(written: dict[str, Any] | None) -> LoggedSignature | None:
    if not written or not written.get("inputs"):
        return None
    return LoggedSignature(_fields(written["inputs"]), _fields(written.get("outputs") or "[]"))


def _fields(text: str) -> tuple[Field, ...]:
    return tuple(_field(entry) for entry in json.loads(text))


def _field(entry: dict[str, Any]) -> Field:
    name = entry.get("name") or ""
    if entry["type"] != "tensor":
        inner = entry.get("items") or {}
        items = str(inner.get("type", "")) if entry["type"] == "array" else ""
        written = f"a list of {items}" if items else str(entry["type"])
        is_required = bool(entry.get("required", True))
        return Field(name, DATATYPES.get(entry["type"]), None, written, items, is_required)
    tensor = entry["tensor-spec"]
    return Field(name, DATATYPES.get(tensor["dtype"]), tuple(map(int, tensor["shape"])), tensor["dtype"])
