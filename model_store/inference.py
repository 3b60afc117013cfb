"""Running an ONNX model on rows, as gates and calibration do: one thread, CPU, named tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from model_store.arrays import Rows, count_rows
from model_store.errors import Permanent, first_line
from model_store.explained import explain
from model_store.types import Precision

PRECISE_INT8 = {"session.x64quantprecision": "1"}


class NotRunnable(Permanent):
    """onnxruntime cannot load or run the model with these rows."""


@cache
def has_exact_int8(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU sums 8-bit products in 32 bits (VNNI, AMX; ARM always does)."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return False
    flags = {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
    return not flags or bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8"})


def session_config(precision: Precision, *, exact_int8: bool | None = None) -> dict[str, str]:
    """Session entries a model of this precision needs on a CPU with or without VNNI (default: this one).

    Without VNNI, onnxruntime's U8S8 kernels saturate at 16 bits and cost whole points of accuracy; the
    entry makes it use U8U8, which is slower and right (onnxruntime_session_options_config_keys.h).
    """
    exact = has_exact_int8() if exact_int8 is None else exact_int8
    return dict(PRECISE_INT8) if precision == "int8" and not exact else {}


def open_session(
    model: bytes | Path, *, config: Mapping[str, str] | None = None, threads: int = 1
) -> ort.InferenceSession:
    """A CPU session. Raises `Permanent` (NotRunnable) when onnxruntime refuses the model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        why = explain(error, otherwise="check the ONNX file")
        raise NotRunnable(f"onnxruntime refuses the model: {why.problem}", remedy=why.remedy) from error


def fixed_batch(session: ort.InferenceSession) -> int | None:
    """The only number of rows the model takes at once, None if that is free."""
    sizes = {tensor.shape[0] for tensor in session.get_inputs() if tensor.shape}
    size = next(iter(sizes), None)
    return size if len(sizes) == 1 and isinstance(size, int) else None


def batches(rows: Rows, size: int) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """The rows in order, `size` at a time. Every array has the same first dimension."""
    count = count_rows(rows)
    for start in range(0, count, size):
        yield {name: array[start : start + size] for name, array in rows.items()}


def answer(
    session: ort.InferenceSession,
    rows: Rows,
    *,
    batch_size: int = 256,
    outputs: list[str] | None = None,
) -> dict[str, np.ndarray[Any, Any]]:
    """All outputs (or these) for all rows, by output name. Raises `Permanent` (NotRunnable) for no or wrong
    rows, and for an output that has not one answer for each.
    """
    if count_rows(rows) == 0:
        raise NotRunnable("there are no rows to answer", remedy="fill the data file")
    names = outputs or [output.name for output in session.get_outputs()]
    size = fixed_batch(session) or batch_size
    parts = [_run(session, names, batch) for batch in batches(_padded(rows, session), size)]
    count = count_rows(rows)
    return {name: np.concatenate([part[i] for part in parts])[:count] for i, name in enumerate(names)}


def _run(session: ort.InferenceSession, names: list[str], batch: Rows) -> list[np.ndarray[Any, Any]]:
    """One call. Raises `Permanent` (NotRunnable) unless every output has one answer for each row."""
    try:
        answers: list[np.ndarray[Any, Any]] = session.run(names, dict(batch))
    except Exception as error:
        wanted = ", ".join(f"{i.name} {i.type} {i.shape}" for i in session.get_inputs())
        raise NotRunnable(
            f"the model cannot answer {count_rows(batch)} such rows at once: {first_line(error)}",
            remedy=f"the model takes: {wanted}",
        ) from error
    for name, array in zip(names, answers, strict=True):
        _refuse_other_rows(name, np.shape(array), count_rows(batch))
    return answers


def _refuse_other_rows(name: str, shape: tuple[int, ...], rows: int) -> None:
    if shape[:1] != (rows,):
        raise NotRunnable(
            f"output `{name}` has shape {list(shape)} for {rows} rows, and must answer each row for itself",
            remedy="export it with the rows as the first dimension of every output, or without this output",
        )


def _padded(rows: Rows, session: ort.InferenceSession) -> Rows:
    """For a model of one batch size: whole batches, the last filled up with the last row."""
    missing = -count_rows(rows) % (fixed_batch(session) or 1)
    if not missing:
        return rows
    return {name: np.concatenate([array, array[-1:].repeat(missing, axis=0)]) for name, array in rows.items()}
