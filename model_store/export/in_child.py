"""The half of an export that runs its author's code, in a child process: rows in, answers and ONNX out.

The child runs in the sandbox (`model_store.sandbox`) and has limits of time, memory and disk.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model_store.dataset import Dataset
from model_store.errors import Retryable
from model_store.export.base import NotExportable
from model_store.foreign_code import Limits, run_child

Array = np.ndarray[Any, Any]

AS_IT_IS = "source.flavor: pyfunc serves it as it is, without export"
# By the step at which a child that loads, asks and converts gave up: what that means, and the remedy.
STEPS_REFUSED: Mapping[str, tuple[str, str]] = {
    "load": ("the model cannot be loaded in its own environment", "log it again with its requirements"),
    "predict": ("the model cannot predict the evaluation rows", "check the signature and data.inputs"),
    "convert": ("{by} cannot convert {what}", AS_IT_IS),
    "memory": ("", f"make the model smaller; {AS_IT_IS}"),
}


class NotConvertible(NotExportable):
    """The converter makes nothing of it that runs, with inputs of these types."""


def write_rows(work: Path, typed: Dataset) -> None:
    """A column may be called like an argument of savez, or hold a slash: so they are numbered."""
    arrays = {f"column{place}": _plain(array) for place, array in enumerate(typed.inputs.values())}
    np.savez(work / "rows.npz", allow_pickle=False, **arrays)


def run_converter(
    script: Path,
    work: Path,
    limits: Limits,
    *,
    readable: Iterable[Path] = (),
    python: Path | None = None,
) -> dict[str, Any]:
    """What the child told. Raises `Permanent` in its words, or when it takes too long or too much."""
    try:
        status = run_child(script, work, limits, readable=readable, python=python)
    except subprocess.TimeoutExpired as error:
        raise NotExportable(
            f"converting the model took longer than {limits.seconds:g} s",
            remedy="look at what it does when it is loaded and when it predicts, or log it as ONNX;"
            f" {AS_IT_IS}",
        ) from error
    if status:
        raise _death(status, (work / "log").read_text(errors="replace")[-2000:])
    told: dict[str, Any] = json.loads((work / "result.json").read_text())
    if "problem" in told:
        refusal = NotConvertible if told["may_convert"] else NotExportable
        raise refusal(str(told["problem"]), remedy=str(told["remedy"]))
    return told


def refuse_failed_step(told: Mapping[str, Any], by: str, *, on_predict: str = "") -> None:
    """Raises `NotExportable` if the child told of a step (`STEPS_REFUSED`) that failed. `by`: what converts;
    `on_predict`: a further remedy of that step.
    """
    if not (step := told.get("step")):
        return
    problem, remedy = STEPS_REFUSED[step]
    what = problem.format(by=by, what=told.get("class", "the model"))
    more = f"; {on_predict}" if on_predict and step == "predict" else ""
    raise NotExportable(f"{what}: {told['failed']}" if what else told["failed"], remedy=f"{remedy}{more}")


def said(work: Path) -> dict[str, Array]:
    """By method, what the original said to the rows."""
    with np.load(work / "answers.npz", allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}


def _death(status: int, log: str) -> NotExportable | Retryable:
    if status == -signal.SIGKILL:
        return Retryable(
            "the conversion was killed from outside, probably for memory",
            remedy="free memory on this machine",
        )
    return NotExportable(
        f"the conversion died with status {status}:\n{log}",
        remedy=f"log the model as ONNX, or fix its code; {AS_IT_IS}",
    )


def _plain(array: Array) -> Array:
    return array.astype(str) if array.dtype == object else array
