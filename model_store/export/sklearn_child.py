"""Loads one scikit-learn model, converts it, and lets it predict: `python -I sklearn_child.py FOLDER MB`.

Runs alone and imports nothing of ours but `sklearn_graphs`, by its path: what the model's code does ends with
this process. FOLDER has request.json and rows.npz, and gets result.json, model.onnx and answers.npz.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pickle
import resource
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def _beside(name: str) -> Any:
    """A script beside this one. The folder itself is not for imports: it has an onnx.py and a sklearn.py."""
    spec = importlib.util.spec_from_file_location(f"slipway_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


graphs = _beside("sklearn_graphs")


def main(folder: Path, memory_mb: int) -> None:
    """Do what request.json asks; result.json says how it went."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads((folder / "request.json").read_text())
    sys.path.extend(entry for entry in request["path"] if entry not in sys.path)
    try:
        result = _convert(request, folder)
    except graphs.GraphRefused as refused:
        result = {
            "problem": str(refused),
            "remedy": refused.remedy,
            "may_convert": refused.may_convert,
        }
    except MemoryError:
        result = {
            "problem": f"converting the model needs more than {memory_mb} MB of memory",
            "remedy": "make the model smaller, or log it as ONNX",
            "may_convert": False,
        }
    (folder / "result.json").write_text(json.dumps(result))


def _convert(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    model = _load(request)
    import numpy as np

    with np.load(folder / "rows.npz", allow_pickle=False) as saved:
        arrays = [saved[f"column{place}"] for place in range(len(request["rows"]))]
    rows = _rows(model, dict(zip(request["rows"], arrays, strict=True)), request)
    said = _predict(model, rows)
    np.savez(folder / "answers.npz", allow_pickle=False, **{name: _plain(a) for name, a in said.items()})
    told = {**_says(model, said["predict"]), "versions": _versions(), "forms": _forms(said)}
    if request["is_last"]:
        told["rounded"] = _changed_by_rounding(model, rows, said["predict"])
    # Last: what was told is wanted also where this fails.
    try:
        onnx = graphs.to_onnx(model, request)
    except graphs.GraphRefused as refused:
        return {
            **told,
            "problem": str(refused),
            "remedy": refused.remedy,
            "may_convert": refused.may_convert,
        }
    (folder / "model.onnx").write_bytes(onnx.SerializeToString(deterministic=True))
    return told


def _says(model: Any, predicted: Any) -> dict[str, Any]:
    """What the estimator says of itself (see `Says` in the parent). `class_counts`: by label of several."""
    kind, classes = _kind(model), getattr(model, "classes_", None)
    is_multilabel = kind == "classifier" and predicted.ndim == 2 and predicted.shape[1] > 1
    return {
        "kind": kind,
        "classes": None if classes is None or is_multilabel else [_json(value) for value in classes],
        "multilabel": is_multilabel,
        "class_counts": [len(each) for each in classes] if isinstance(classes, list) else [],
    }


def _forms(said: dict[str, Any]) -> dict[str, Any]:
    """By method, numpy's kind of its answers and the shape of one."""
    return {method: [array.dtype.kind, list(array.shape[1:])] for method, array in said.items()}


def _kind(model: Any) -> str | None:
    from sklearn.base import is_classifier, is_outlier_detector, is_regressor

    asked = {"classifier": is_classifier, "regressor": is_regressor, "outlier": is_outlier_detector}
    return next((kind for kind, is_one in asked.items() if is_one(model)), None)


def _json(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _load(request: dict[str, Any]) -> Any:
    if request["code"]:
        sys.path.insert(0, request["code"])
    try:
        with _refusing_other_versions():
            if request["format"] == "skops":
                return _load_skops(request["model"], request["trusted_types"])
            with Path(request["model"]).open("rb") as file:
                return pickle.load(file)  # only for sources the spec trusts
    except (graphs.GraphRefused, MemoryError):
        raise
    except Exception as error:
        differing = request["differing"]
        raise graphs.GraphRefused(
            f"the model cannot be loaded: {type(error).__name__}: {error}"
            + (f"; it was logged with {differing}" if differing else ""),
            "log it again with the libraries installed here, or install here what it was logged with"
            if differing
            else "log it again, or log it as ONNX",
        ) from error


@contextlib.contextmanager
def _refusing_other_versions() -> Iterator[None]:
    """scikit-learn warns where an estimator was saved by another version of it; the patch may differ."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    import sklearn
    from sklearn import exceptions

    here = sklearn.__version__
    # Since 1.3; an older one is there because the model was logged with it.
    InconsistentVersionWarning = getattr(exceptions, "InconsistentVersionWarning", ())  # noqa: N806
    for warning in caught:
        if not isinstance(warning.message, InconsistentVersionWarning):
            continue
        saved, minor = warning.message.original_sklearn_version, ".".join(here.split(".")[:2])
        if ".".join(saved.split(".")[:2]) != minor:
            raise graphs.GraphRefused(
                f"{warning.message.estimator_name} was saved by scikit-learn {saved}, and scikit-learn"
                f" {here} is installed here: what it loads may be another model",
                f"log it with scikit-learn {minor}, or install scikit-learn {saved} here",
            )


def _load_skops(path: str, trusted: list[str]) -> Any:
    import skops.io

    if unknown := sorted(set(skops.io.get_untrusted_types(file=path)) - set(trusted)):
        raise graphs.GraphRefused(
            f"the model contains types that the spec does not trust: {', '.join(unknown)}",
            "if they are harmless, add them to source.skops_trusted_types in the spec",
        )
    return skops.io.load(path, trusted=trusted)


def _predict(model: Any, rows: Any) -> dict[str, Any]:
    """What the estimator says, by method. Where it says how probable a class is, no other score is asked."""
    import numpy as np

    if not hasattr(model, "predict"):
        raise graphs.GraphRefused(
            f"what was loaded is {type(model).__name__}, which has no predict",
            "log the estimator that predicts, with its preprocessing in one pipeline",
        )
    try:
        said = {"predict": np.asarray(model.predict(rows))}
        for method in ("predict_proba", "decision_function", "score_samples", "transform"):
            if hasattr(model, method):
                said[method] = _as_array(getattr(model, method)(rows))
            if "predict_proba" in said:
                break
    except MemoryError:
        raise
    except Exception as error:
        raise graphs.GraphRefused(
            f"the model cannot predict the evaluation rows: {type(error).__name__}: {error}",
            "check the signature, data.inputs and the order of the columns against how the model was trained",
        ) from error
    return {method: array for method, array in said.items() if array is not None}


def _as_array(said: Any) -> Any:
    """Of several labels, each with its own [N, C]: [N, L, C], or [N, L] of yes where all are yes or no."""
    import numpy as np

    if not isinstance(said, list):
        return said.toarray() if hasattr(said, "toarray") else np.asarray(said)
    if len({each.shape for each in said}) > 1:
        return None
    stacked = np.stack(said, axis=1)
    return stacked[:, :, 1] if stacked.shape[2] == 2 else stacked


def _changed_by_rounding(model: Any, rows: Any, said: Any) -> int | None:
    """How many rows `predict` answers otherwise when float64 and whole numbers are rounded to float32."""
    import numpy as np

    try:
        other = np.asarray(model.predict(_rounded(rows)))
    except Exception:
        return None
    if said.dtype.kind == "f":
        size = np.maximum(np.abs(said), np.median(np.abs(said)))
        differ = np.abs(other - said) > 1e-4 * size
    else:
        differ = other != said
    return int(np.count_nonzero(differ.reshape(len(differ), -1).any(axis=1)))


def _rounded(rows: Any) -> Any:
    import numpy as np

    def rounded(column: Any) -> Any:
        return column.astype(np.float32).astype(column.dtype) if column.dtype.kind in "fiu" else column

    return rows.apply(rounded) if hasattr(rows, "apply") else rounded(rows)


def _rows(model: Any, named: dict[str, Any], request: dict[str, Any]) -> Any:
    """As the model was fitted: a table of columns, or one array, with names if it knows them."""
    import pandas as pd

    if request["is_table"]:
        # A vectorizer of texts goes through what it is given: through a table's column names, that is.
        return pd.Series(*named.values()) if _takes_texts(model, named) else pd.DataFrame(named)
    if len(named) > 1:
        raise graphs.GraphRefused(
            "the model takes one array, and its signature has several", "log it with one input"
        )
    ((name, array),) = named.items()
    columns = request["columns"][name]
    if not hasattr(model, "feature_names_in_") or array.ndim != 2 or isinstance(columns, str):
        return array
    return pd.DataFrame(array, columns=list(columns))


def _takes_texts(model: Any, named: dict[str, Any]) -> bool:
    first = model.steps[0][1] if hasattr(model, "steps") else model
    return len(named) == 1 and hasattr(first, "build_analyzer")


def _plain(array: Any) -> Any:
    return array.astype(str) if array.dtype == object else array


def _versions() -> str:
    import skl2onnx
    import sklearn

    return f"{skl2onnx.__version__} (scikit-learn {sklearn.__version__})"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
