"""Loads one scikit-learn model, converts it, and lets it predict: `python -I sklearn_child.py FOLDER MB`.

Runs alone and imports nothing of ours: what the model's code does ends with this process. FOLDER has
request.json and rows.npz, and gets result.json, model.onnx and answers.npz.
"""

from __future__ import annotations

import json
import pickle
import resource
import sys
from pathlib import Path
from typing import Any


class Refused(Exception):  # noqa: N818
    """Becomes a `Permanent` in the parent."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


def main(folder: Path, memory_mb: int) -> None:
    """Do what request.json asks; result.json says how it went."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads((folder / "request.json").read_text())
    sys.path.extend(entry for entry in request["path"] if entry not in sys.path)
    try:
        result = _convert(request, folder)
    except Refused as refused:
        result = {"problem": str(refused), "remedy": refused.remedy}
    except MemoryError:
        result = {
            "problem": f"converting the model needs more than {memory_mb} MB of memory",
            "remedy": "make the model smaller, or log it as ONNX",
        }
    (folder / "result.json").write_text(json.dumps(result))


def _convert(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    model = _load(request)
    onnx = _to_onnx(model, request["inputs"])
    (folder / "model.onnx").write_bytes(onnx.SerializeToString(deterministic=True))
    outputs = [output.name for output in onnx.graph.output]
    said = _predict(model, outputs, request, folder)
    return {"versions": _versions(), "says": _says(model, outputs, said)}


def _says(model: Any, outputs: list[str], predicted: Any) -> dict[str, Any]:
    """What the estimator says of itself (`Says` in the parent)."""
    kind, classes = _kind(model), getattr(model, "classes_", None)
    is_multilabel = isinstance(classes, list) or getattr(model, "multilabel_", False)
    predicted = "value" if kind == "regressor" else "label"
    roles = dict(
        zip(outputs, [predicted, "scores" if hasattr(model, "predict_proba") else None], strict=False)
    )
    return {
        "kind": kind,
        "classes": None if classes is None or is_multilabel else [_json(value) for value in classes],
        "outputs": roles,
        "probabilities": {name: True for name, role in roles.items() if role == "scores"},
        "multilabel": is_multilabel,
    }


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
        if request["format"] == "skops":
            return _load_skops(request["model"], request["trusted_types"])
        with Path(request["model"]).open("rb") as file:
            return pickle.load(file)  # only for sources the spec trusts
    except (Refused, MemoryError):
        raise
    except Exception as error:
        raise Refused(
            f"the model cannot be loaded: {type(error).__name__}: {error}",
            "log it again with the scikit-learn version installed here, or log it as ONNX",
        ) from error


def _load_skops(path: str, trusted: list[str]) -> Any:
    import skops.io

    if unknown := sorted(set(skops.io.get_untrusted_types(file=path)) - set(trusted)):
        raise Refused(
            f"the model contains types that the spec does not trust: {', '.join(unknown)}",
            "if they are harmless, add them to source.skops_trusted_types in the spec",
        )
    return skops.io.load(path, trusted=trusted)


def _to_onnx(model: Any, inputs: list[list[Any]]) -> Any:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from sklearn.base import is_classifier

    types = {"FP32": FloatTensorType, "BYTES": StringTensorType}
    initial = [(name, types[datatype]([None, *shape[1:]])) for name, datatype, shape in inputs]
    try:
        # zipmap would wrap probabilities into a list of maps, which no tensor client can read.
        options = {"zipmap": False} if is_classifier(model) else None
        return _in_order(to_onnx(model, initial_types=initial, options=options))
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(
            f"skl2onnx cannot convert {type(model).__name__}: {type(error).__name__}: {error}",
            "use estimators that skl2onnx supports (sklearn-onnx documentation), or log the model as ONNX",
        ) from error


def _in_order(onnx: Any) -> Any:
    """The same model with its operator sets sorted: skl2onnx lists them in the order of a Python set."""
    imports = sorted(onnx.opset_import, key=lambda imported: imported.domain)
    del onnx.opset_import[:]
    onnx.opset_import.extend(imports)
    return onnx


def _predict(model: Any, outputs: list[str], request: dict[str, Any], folder: Path) -> Any:
    """The original's answers, kept under the names of the ONNX model's outputs. Returns what it predicts."""
    import numpy as np

    with np.load(folder / "rows.npz", allow_pickle=False) as saved:
        rows = _rows(model, {name: saved[name] for name in saved.files}, request["columns"])
    try:
        said = [model.predict(rows)]
        if hasattr(model, "predict_proba"):
            said.append(model.predict_proba(rows))
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(
            f"the model cannot predict the evaluation rows: {type(error).__name__}: {error}",
            "check data.inputs and the order of the columns against how the model was trained",
        ) from error
    answers = dict(zip(outputs, map(_plain, map(np.asarray, said)), strict=False))
    np.savez(folder / "answers.npz", allow_pickle=False, **answers)
    return np.asarray(said[0])


def _rows(model: Any, tensors: dict[str, Any], columns: dict[str, Any]) -> Any:
    """As the model was fitted: a table if it knows column names, else one array."""
    if not hasattr(model, "feature_names_in_"):
        if len(tensors) > 1:
            raise Refused("the model takes one array, and data.inputs makes several", "correct data.inputs")
        return next(iter(tensors.values()))
    import pandas as pd

    named = {}
    for tensor, names in columns.items():
        listed = [names] if isinstance(names, str) else names
        named.update({name: tensors[tensor][:, place] for place, name in enumerate(listed)})
    return pd.DataFrame(named)


def _plain(array: Any) -> Any:
    return array.astype(str) if array.dtype == object else array


def _versions() -> str:
    import skl2onnx
    import sklearn

    return f"{skl2onnx.__version__} (scikit-learn {sklearn.__version__})"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
