"""The `sklearn` flavour: loading it runs its author's code, so a child process does, and only if trusted.

The child gets no environment of ours, a time limit, a memory limit, and a folder to write to.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_store.dataset import Dataset, read_dataset
from model_store.errors import Retryable
from model_store.export.base import NotExportable
from model_store.export.mlmodel import LoggedModel
from model_store.export.onnx_file import read_onnx
from model_store.export.original import Original
from model_store.export.signature import plan
from model_store.release_spec import ReleaseSpec
from model_store.types import TensorSpec, Toolchain

CHILD = Path(__file__).with_name("sklearn_child.py")
SAFE_FORMAT = "skops"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the child: wall time, and address space (numpy alone maps about 0.7 GB of it)."""

    seconds: float = 300
    memory_mb: int = 4096


def convert(
    logged: LoggedModel, spec: ReleaseSpec, evaluation: Path, *, limits: Limits | None = None
) -> Original:
    """ONNX by skl2onnx, and the original's predictions. Nothing is opened unless the spec trusts its source.

    Raises `Permanent`; `Retryable` if the child was killed from outside.
    """
    settings = logged.flavor("sklearn")
    _refuse_untrusted(settings, spec)
    model = logged.file(str(settings.get("pickled_model") or ""))
    inputs, columns = plan(logged, spec.data)
    rows = read_dataset(evaluation, spec.data, inputs, columns=columns)
    with tempfile.TemporaryDirectory(prefix="slipway-export-") as name:
        work = Path(name)
        _write_request(work, model, settings, spec, inputs, rows)
        _run(work, limits or Limits())
        return _result(work, spec, rows)


def _refuse_untrusted(settings: dict[str, Any], spec: ReleaseSpec) -> None:
    if spec.source.trusted:
        return
    saved_as = settings.get("serialization_format", "pickle")
    raise NotExportable(
        f"{spec.model} is scikit-learn saved as {saved_as}: converting it runs the code of whoever logged"
        " it, and the spec does not trust its source; nothing was loaded",
        remedy="if only people you trust can register versions, set source.trusted: true; otherwise log ONNX"
        " (mlflow.onnx.log_model) and set source.flavor: onnx",
    )


def _write_request(
    work: Path,
    model: Path,
    settings: dict[str, Any],
    spec: ReleaseSpec,
    inputs: tuple[TensorSpec, ...],
    rows: Dataset,
) -> None:
    np.savez(work / "rows.npz", allow_pickle=False, **{k: _plain(v) for k, v in rows.inputs.items()})
    request = {
        "model": str(model),
        "format": settings.get("serialization_format", "pickle"),
        "trusted_types": list(spec.source.skops_trusted_types),
        "code": str(model.parent / settings["code"]) if settings.get("code") else None,
        "inputs": [[spec.name, spec.datatype, list(spec.shape)] for spec in inputs],
        "columns": rows.columns,
        "path": [entry for entry in sys.path if Path(entry).is_absolute()],
    }
    (work / "request.json").write_text(json.dumps(request))


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(str) if array.dtype == object else array


def _run(work: Path, limits: Limits) -> None:
    """Run the child to its end. Raises `Permanent` when it takes too long or too much."""
    command = [sys.executable, "-I", str(CHILD), str(work), str(limits.memory_mb)]
    with (work / "log").open("wb") as log:
        child = subprocess.Popen(
            command,
            cwd=work,
            env=_environment(work),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            status = child.wait(timeout=limits.seconds)
        except subprocess.TimeoutExpired as error:
            raise NotExportable(
                f"converting the model took longer than {limits.seconds:g} s",
                remedy="look at what it does when it is loaded and when it predicts, or log it as ONNX",
            ) from error
        finally:
            # Its whole session: the model's code may have started processes of its own.
            _kill_session(child)
    if status:
        raise _death(status, (work / "log").read_text(errors="replace")[-2000:])


def _environment(work: Path) -> dict[str, str]:
    """No tokens, passwords or addresses; one thread; the same hashes every time."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    return kept | threads | {
        "PATH": os.defpath,
        "HOME": str(work),
        "TMPDIR": str(work),
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
    }  # fmt: skip


def _kill_session(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _death(status: int, log: str) -> NotExportable | Retryable:
    if status == -signal.SIGKILL:
        return Retryable(
            "the conversion was killed from outside, probably for memory",
            remedy="free memory on this machine",
        )
    return NotExportable(
        f"the conversion died with status {status}:\n{log}", remedy="log the model as ONNX, or fix its code"
    )


def _result(work: Path, spec: ReleaseSpec, rows: Dataset) -> Original:
    said = json.loads((work / "result.json").read_text())
    if "problem" in said:
        raise NotExportable(str(said["problem"]), remedy=str(said["remedy"]))
    onnx = read_onnx(work / "model.onnx", max_size_mb=spec.source.max_size_mb)
    with np.load(work / "answers.npz", allow_pickle=False) as saved:
        answers = {name: saved[name] for name in saved.files}
    return Original(onnx, rows, answers, Toolchain("skl2onnx", str(said["versions"])), said["says"])
