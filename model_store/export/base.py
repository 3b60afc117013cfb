"""What every flavour's export returns, and how it is kept beside the ONNX file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model_store.dataset import Dataset
from model_store.errors import Permanent
from model_store.export.says import Says
from model_store.types import Check, ModelRef, TensorSpec, Toolchain

Array = np.ndarray[Any, Any]
Columns = dict[str, tuple[str, ...] | str]

MODEL_FILE = "model.onnx"
ARCHIVE_FILE = "model.tar"
ANSWERS_FILE = "original.npz"
RECORD_FILE = "export.json"


class NotExportable(Permanent):
    """This version cannot become an ONNX model."""


class NoConverter(NotExportable):
    """None of its flavours is one that anything exports."""


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """One model version as a single file (ONNX, or an archive of a model that is served as it is), with the
    original's answers to compare candidates against.

    `path` and `answers` (an .npz: by output name, [N, ...] for the evaluation rows in the file's order) are
    in one folder, where `read` finds everything again. `columns` says which data columns fill each input.
    `agreement`: how far the ONNX model is from the original on those rows, at most. `says`: what the model
    says of itself; `notes`: what a person should know of the export. `invocations`: how MLflow's
    clients ask it.
    """

    model: ModelRef
    path: Path
    digest: str
    size_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    columns: Columns
    toolchain: Toolchain
    answers: Path
    agreement: Check
    dataset_digest: str
    says: Says
    notes: tuple[str, ...]
    invocations: Mapping[str, Any]
    format: Literal["onnx", "mlflow"] = "onnx"

    def original_answers(self) -> dict[str, Array]:
        """By output name, what the original model said to every evaluation row."""
        with np.load(self.answers, allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}

    def save(self) -> ExportedModel:
        """Write the record beside the model; the same export gives the same bytes."""
        record = {**asdict(self), "path": self.path.name, "answers": self.answers.name}
        target = self.path.parent / RECORD_FILE
        target.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        return self

    @classmethod
    def read(cls, folder: Path) -> ExportedModel:
        """What `save` wrote into `folder`."""
        record = json.loads((folder / RECORD_FILE).read_text())
        return cls(
            model=ModelRef(**record["model"]),
            path=folder / record["path"],
            digest=record["digest"],
            size_bytes=record["size_bytes"],
            inputs=_tensors(record["inputs"]),
            outputs=_tensors(record["outputs"]),
            columns=_columns(record["columns"]),
            toolchain=Toolchain(**record["toolchain"]),
            answers=folder / record["answers"],
            agreement=Check(**record["agreement"]),
            dataset_digest=record["dataset_digest"],
            says=record["says"],
            notes=tuple(record["notes"]),
            invocations=record["invocations"],
            format=record["format"],
        )


def _tensors(records: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(r["name"], r["datatype"], tuple(r["shape"])) for r in records)


def _columns(record: Mapping[str, Any]) -> Columns:
    return {name: names if isinstance(names, str) else tuple(names) for name, names in record.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """`answers`: by ONNX output name, [N, ...], for the evaluation rows `rows`.

    `agreement`: of `onnx` with the original. `says`: what the model says of itself (see
    `model_store.export.says`). `notes`: what a person should know of the export, in sentences. `answer`: what
    `predict` of the logged model answers (`model_store.export.invocations`), None for all of its outputs.
    """

    onnx: bytes
    rows: Dataset
    answers: dict[str, np.ndarray[Any, Any]]
    toolchain: Toolchain
    agreement: Check
    says: Says
    notes: tuple[str, ...] = ()
    answer: dict[str, Any] | None = None
