"""Loads one MLflow model and answers batches: `python -IB worker.py CONNECTION LIFELINE FOLDER`.

Runs in the model's own environment and imports nothing of ours but `wire`, which it loads by its path. FOLDER
has serve.json (what the model takes) and the model itself in `model`. Both numbers are file descriptors: a
socket, and a pipe that ends when whoever started this has ended.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

_NUMPY = {
    "BOOL": "bool", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1",
    "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BYTES": "O",
}  # fmt: skip


class ValuesRefused(Exception):  # noqa: N818
    """The values, and not the model, are at fault."""


class UnusableAnswer(Exception):  # noqa: N818
    """The model answered something that is no answer for each row."""


def main(connection: int, lifeline: int, folder: Path) -> None:
    """Answer until the other side has ended."""
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    # What the model prints is for the log.
    os.dup2(2, 1)
    wire = _load_wire()
    peer = socket.socket(fileno=connection)
    try:
        serves = json.loads((folder / "serve.json").read_text())
        model = _load(folder / "model")
    except BaseException as error:
        traceback.print_exc()
        wire.send(peer, {"problem": _told(error)}, [])
        return
    wire.send(peer, {"ready": True}, [])
    while True:
        try:
            request, arrays = wire.receive(peer)
        except EOFError:
            return
        wire.send(peer, *_answered(model, serves, request, arrays))


def _end_with(lifeline: int) -> None:
    """Nothing that the model started outlives the pod, and no folder of its own."""
    os.read(lifeline, 1)
    shutil.rmtree(os.environ["HOME"], ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def _load_wire() -> Any:
    path = Path(__file__).with_name("wire.py")
    spec = importlib.util.spec_from_file_location("slipway_wire", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _load(folder: Path) -> Any:
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(folder))


def _answered(model: Any, serves: dict[str, Any], request: dict[str, Any], arrays: list[Any]) -> Any:
    """What to send: the header of an answer and its arrays."""
    try:
        rows = _rows(serves, dict(zip(request["inputs"], arrays)))  # noqa: B905
        answer = _predicted(model, rows)
        said = _named(answer, serves["outputs"], len(arrays[0]))
        wanted = request["outputs"]
        if wanted is None:
            return {"outputs": list(said), "form": _form(answer)}, list(said.values())
        if len(wanted) == len(said) == 1:
            # A list where at other times it was a column: there is no other that could be meant.
            said = {wanted[0][0]: next(iter(said.values()))}
        arrays = [_as_wanted(said, *each) for each in wanted]
        return {"outputs": [name for name, *_ in wanted]}, arrays
    except ValuesRefused as error:
        return {"refused": str(error)}, []
    except UnusableAnswer as error:
        return {"failed": str(error)}, []
    except Exception as error:
        traceback.print_exc()
        return {"failed": _told(error)}, []


def _told(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:400] if lines else ''}"


def _predicted(model: Any, rows: Any) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return model.predict(rows)
    except MlflowException as error:
        # What the signature refuses. Anything else that a model raises is its own fault.
        if "schema" in str(error).lower():
            raise ValuesRefused(_told(error)) from error
        raise


# What the model is given


def _rows(serves: dict[str, Any], arrays: dict[str, Any]) -> Any:
    """As the signature has it: a table, one array, arrays by name, or a list."""
    import pandas as pd

    if serves["takes"] == "tensors":
        named = {each["name"]: arrays[each["tensor"]] for each in serves["columns"]}
        return next(iter(named.values())) if list(named) == [""] else named
    columns = {each["name"]: _column(each, arrays[each["tensor"]]) for each in serves["columns"]}
    if serves["takes"] == "list":
        return list(next(iter(columns.values())))
    # A signature without names has one column, and pandas calls that 0.
    return pd.DataFrame({name or 0: values for name, values in columns.items()})


def _column(column: dict[str, Any], array: Any) -> Any:
    import pandas as pd

    if column["is_list"]:
        return pd.Series(
            [_texts(column, row) if array.dtype == object else row for row in array], dtype=object
        )
    values = array.reshape(len(array))
    if array.dtype != object:
        return values
    texts = _texts(column, values)
    if column["type"] == "datetime":
        return _times(column["name"], texts)
    # As the model's own pandas has text: what is missing there is None, or NaN since pandas 3.
    return pd.Series(texts, dtype=None if texts else object)


def _texts(column: dict[str, Any], values: Any) -> list[Any]:
    """In a column that may be empty, an empty text is a missing one."""
    try:
        return [None if column["nullable"] and not value else value.decode() for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise ValuesRefused(f"column `{column['name']}` is not UTF-8: {error}") from error


def _times(name: str, texts: list[Any]) -> Any:
    import pandas as pd

    try:
        return pd.Series(pd.to_datetime(pd.Series(texts, dtype=object), format="ISO8601"))
    except (ValueError, TypeError) as error:
        raise ValuesRefused(f"column `{name}` takes times as 2026-01-31T12:00:00: {_told(error)}") from error


# What the model says


def _named(answer: Any, names: list[str], count: int) -> dict[str, Any]:
    """By name, an array of one answer for each row. `names`: what the signature calls them."""
    import pandas as pd

    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        answer = pd.DataFrame.from_records(answer)
    if isinstance(answer, pd.DataFrame):
        parts = {str(name): answer[name].to_numpy() for name in answer.columns}
    elif isinstance(answer, dict):
        parts = {str(name): value for name, value in answer.items()}
    else:
        parts = _of_array(answer, names)
    if not parts:
        raise UnusableAnswer("the model answered nothing")
    return {name: _checked(name, value, count) for name, value in parts.items()}


def _form(answer: Any) -> str:
    """How MLflow's own server would write it: records, an object of columns, or the values."""
    import pandas as pd

    is_records = isinstance(answer, list) and bool(answer) and isinstance(answer[0], dict)
    if is_records or isinstance(answer, (pd.DataFrame, pd.Series)):
        return "records"
    return "columns" if isinstance(answer, dict) else "values"


def _of_array(answer: Any, names: list[str]) -> dict[str, Any]:
    import pandas as pd

    name = names[0] if len(names) == 1 else ""
    if isinstance(answer, pd.Series):
        return {name or str(answer.name or "output"): answer.to_numpy()}
    array = answer.toarray() if hasattr(answer, "toarray") else answer
    shape: Any = getattr(array, "shape", ())
    if len(names) > 1 and len(shape) == 2 and shape[1] == len(names):
        return {each: array[:, place] for place, each in enumerate(names)}
    return {name or "output": array}


def _checked(name: str, value: Any, count: int) -> Any:
    """An array of a type that tensors have. Raises Unusable for anything else, and for other rows."""
    import numpy as np

    try:
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
    except ValueError as error:
        raise UnusableAnswer(f"output `{name}` is no array: {_told(error)}") from error
    if array.shape[:1] != (count,):
        found = f"{len(array)} rows" if array.ndim else f"one {type(value).__name__}"
        raise UnusableAnswer(
            f"output `{name}` has {found} for {count} rows, and must answer each row for itself"
        )
    if array.dtype == object:
        array = _of_objects(name, array)
    if array.dtype.kind == "M":
        array = _bytes(np.datetime_as_string(array, unit="ms"))
    if array.dtype.kind in "US":
        array = _bytes(array)
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    if array.dtype.kind not in "biufO":
        raise UnusableAnswer(f"output `{name}` is {array.dtype}, which no tensor can hold")
    return array


def _of_objects(name: str, array: Any) -> Any:
    """Text, numbers with gaps, or rows that are lists of one length."""
    import numpy as np
    import pandas as pd

    if len(array) and isinstance(array.flat[0], (list, tuple, np.ndarray)):
        try:
            stacked = np.stack([np.asarray(row) for row in array])
        except ValueError as error:
            raise UnusableAnswer(f"output `{name}` has rows of different lengths") from error
        return _of_objects(name, stacked) if stacked.dtype == object else stacked
    values = [None if value is None or value is pd.NA else value for value in array.ravel()]
    known = [value for value in values if value is not None and value == value]
    if all(isinstance(value, (str, bytes)) for value in known):
        flat = np.empty(len(values), dtype=object)
        flat[:] = [value if isinstance(value, (str, bytes)) else "" for value in values]
        return _bytes(flat.reshape(array.shape))
    if all(isinstance(value, (bool, np.bool_)) for value in values):
        return array.astype(bool)
    if all(isinstance(value, (int, float, np.number, bool, np.bool_)) for value in known):
        whole = len(known) == len(values) and all(isinstance(value, (int, np.integer)) for value in known)
        flat = np.array([np.nan if value is None else value for value in values])
        return flat.astype(np.int64 if whole else np.float64).reshape(array.shape)
    kinds = ", ".join(sorted({type(value).__name__ for value in known})[:4])
    raise UnusableAnswer(f"output `{name}` holds {kinds}, which no tensor can hold: answer numbers or text")


def _bytes(array: Any) -> Any:
    import numpy as np

    flat = np.empty(array.size, dtype=object)
    flat[:] = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel()]
    return flat.reshape(array.shape)


def _as_wanted(said: dict[str, Any], name: str, datatype: str, shape: list[int]) -> Any:
    """In the declared type, where that holds the same values. The pod looks at the shape itself."""
    import numpy as np

    if name not in said:
        raise UnusableAnswer(f"output `{name}` is missing: the model answered {', '.join(said)}")
    array, wanted = said[name], np.dtype(_NUMPY[datatype])
    if array.ndim < len(shape) and array.size == len(array):
        array = array.reshape([len(array), *[1] * (len(shape) - 1)])
    if array.dtype == wanted:
        return array
    if "O" in (array.dtype.kind, wanted.kind):
        raise UnusableAnswer(f"output `{name}` is {array.dtype}, and {datatype} was promised")
    cast = array.astype(wanted)
    if not (np.can_cast(array.dtype, wanted, "same_kind") or np.array_equal(cast, array)):
        raise UnusableAnswer(f"output `{name}` is {array.dtype}, and {datatype} does not hold these values")
    return cast


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
