"""The flavour `pyfunc`: the model's folder, its locked libraries and what it takes, in one archive.

What pods will run is run here: the same process, the same environment, the same batches. The original is the
model asked for all rows at once, as a notebook asks it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from model_store.archives import pack
from model_store.arrays import saved_answers
from model_store.columns import NUMPY
from model_store.dataset import Dataset, read_dataset
from model_store.durable import digest_file
from model_store.engines.errors import ModelFault, RefusedByModel
from model_store.engines.python import SERVE_FILE
from model_store.engines.python.engine import open_process
from model_store.engines.python.environment import LOCK_FILE, MODEL_FOLDER
from model_store.engines.python.process import LOAD_SECONDS, ModelProcess
from model_store.engines.python.wheels import WHEELS_FOLDER
from model_store.export.agreement import agree
from model_store.export.allowed import refuse_unless_allowed, told_of_trust
from model_store.export.as_logged_inputs import Takes, takes
from model_store.export.base import ANSWERS_FILE, ARCHIVE_FILE, ExportedModel, NotExportable
from model_store.export.batches import BatchedModel, require_answers_row_by_row
from model_store.export.invocations import answered_values, invocations
from model_store.export.mlmodel import LoggedModel, read_mlmodel
from model_store.export.requirements import locked, logged_python, wheels_of
from model_store.export.says import nothing_said
from model_store.export.signature import told_of_signature, with_signature
from model_store.inference import batches
from model_store.release_spec import ReleaseSpec
from model_store.texts import as_bytes, as_text
from model_store.types import Check, Datatype, ModelRef, TensorSpec, Toolchain

Array = np.ndarray[Any, Any]
Answers = dict[str, Array]

_DATATYPES: dict[str, Datatype] = {numpy: datatype for datatype, numpy in NUMPY.items()}


def export_as_logged(
    ref: ModelRef, spec: ReleaseSpec, model_dir: Path, out_dir: Path, *, evaluation: Path
) -> ExportedModel:
    """The downloaded model in `model_dir` as `out_dir`/model.tar, with its own answers to the rows.

    Raises `Permanent` (NotExportable, NoEnvironment, UnusableData) for what cannot be served; `Retryable`
    while the package index does not answer.
    """
    logged = read_mlmodel(model_dir)
    _refuse(logged, spec)
    logged = with_signature(logged, spec.data, evaluation)
    taken = takes(logged, spec.data)
    rows = read_dataset(evaluation, spec.data, taken.inputs, columns=taken.columns, as_logged=True)
    python = logged_python(logged)
    folder = out_dir / "content"
    lock = locked(logged, python)
    _lay_out(folder, logged, {**taken.serves, "schema": 1, "python": python}, lock)
    shutil.copytree(
        wheels_of(lock, python, beside=logged.folder), folder / WHEELS_FOLDER, copy_function=_linked
    )
    with closing(open_process(folder, threads=spec.serving.threads, seconds=LOAD_SECONDS)) as process:
        asking = _Asking(process, taken)
        form, original = asking.as_it_is(rows)
        outputs = tuple(_output(name, array) for name, array in original.items())
        agreement = _agreement(asking, outputs, original, rows, spec)
    archive = out_dir / ARCHIVE_FILE
    pack(folder, archive)
    answers = out_dir / ANSWERS_FILE
    answers.write_bytes(saved_answers(original))
    return ExportedModel(
        model=ref,
        path=archive,
        digest=digest_file(archive),
        size_bytes=archive.stat().st_size,
        inputs=taken.inputs,
        outputs=outputs,
        columns=dict(rows.columns),
        toolchain=Toolchain("python", python),
        answers=answers,
        agreement=agreement,
        dataset_digest=rows.digest,
        says=nothing_said(),
        notes=(
            f"served as it was logged, by Python {python} and {_count(folder)} libraries of its own",
            *told_of_signature(logged),
            *told_of_trust(spec, "pyfunc"),
        ),
        invocations=invocations(
            logged, taken.inputs, outputs, rows.columns, _answer(form, outputs), spec.data
        ),
        format="mlflow",
    ).save()


class _Asking:
    """The model's process, asked for rows of the data file."""

    def __init__(self, process: ModelProcess, taken: Takes) -> None:
        self._process, self._names = process, [spec.name for spec in taken.inputs]

    def as_it_is(self, rows: Dataset) -> tuple[str, Answers]:
        """All rows at once: the form of its answer, and what the model calls them. Raises `Permanent` in its
        own words.
        """
        encoded = as_bytes(rows.inputs)
        try:
            form, said = self._process.names({"inputs": self._names}, [encoded[name] for name in self._names])
        except ModelFault as error:
            raise NotExportable(
                f"the model cannot predict the evaluation rows: {error.problem}",
                remedy="check the signature, data.inputs and the order of the columns against how it was"
                " trained; the whole error is in the log",
            ) from error
        return form, as_text(said)

    def in_batches(self, outputs: tuple[TensorSpec, ...], rows: Mapping[str, Array], size: int) -> Answers:
        """As pods ask it."""
        names = [spec.name for spec in outputs]
        header = {
            "inputs": self._names,
            "outputs": [[spec.name, spec.datatype, list(spec.shape)] for spec in outputs],
        }
        try:
            parts = [
                self._process.ask(header, [batch[name] for name in self._names])
                for batch in batches(as_bytes(rows), size)
            ]
        except (ModelFault, RefusedByModel) as error:
            raise NotExportable(
                f"the model answers all rows at once, and not {size} at a time: {error.problem}",
                remedy="let it answer any number of rows, one by one as well, each for itself",
            ) from error
        columns = [np.concatenate([part[place] for part in parts]) for place in range(len(names))]
        return as_text(dict(zip(names, columns, strict=True)))


def _refuse(logged: LoggedModel, spec: ReleaseSpec) -> None:
    if "python_function" not in logged.flavors:
        raise NotExportable(
            f"the version is no pyfunc; its flavours are {', '.join(sorted(logged.flavors))}",
            remedy="log it with a flavour of MLflow's, or with mlflow.pyfunc.log_model",
        )
    refuse_unless_allowed(spec, "pyfunc", "is served by running")


def _agreement(
    asking: _Asking, outputs: tuple[TensorSpec, ...], original: Answers, rows: Dataset, spec: ReleaseSpec
) -> Check:
    size = spec.serving.max_batch_size
    if spec.serving.stochastic:
        asking.in_batches(outputs, rows.inputs, size)
        return Check("export agreement", 0.0, spec.gates.export_tolerance, passed=True, detail="by chance")
    require_answers_row_by_row(
        BatchedModel(lambda few, each: asking.in_batches(outputs, few, each), by="something in its code"),
        rows.inputs,
        max_batch_size=size,
    )
    served = asking.in_batches(outputs, rows.inputs, size)
    return agree(original, served, tolerance=spec.gates.export_tolerance)


def _answer(form: str, outputs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    """In the form in which the model answered all rows; what is kept of it are arrays by name."""
    if form != "values" or len(outputs) > 1:
        known = "rows" if form == "values" else form
        return {"form": known, "outputs": [spec.name for spec in outputs]}
    return answered_values(outputs[0].name, "", [])


def _output(name: str, array: Array) -> TensorSpec:
    datatype = "BYTES" if array.dtype == object else _DATATYPES[array.dtype.name]
    return TensorSpec(name, datatype, (-1, *array.shape[1:]))


def _lay_out(folder: Path, logged: LoggedModel, serves: dict[str, Any], lock: bytes) -> None:
    shutil.copytree(logged.folder, folder / MODEL_FOLDER)
    (folder / SERVE_FILE).write_text(json.dumps(serves, indent=1, sort_keys=True) + "\n")
    (folder / LOCK_FILE).write_bytes(lock)


def _linked(source: str, target: str) -> None:
    """The same file once more, where the file system can: wheels are large and never changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _count(folder: Path) -> int:
    return sum("==" in line for line in (folder / LOCK_FILE).read_text().splitlines())
