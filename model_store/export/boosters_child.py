"""Loads one booster by MLflow, lets it predict and converts it: `python -I boosters_child.py FOLDER MB`.

Runs in the model's own environment, beside which its converter was installed, and imports nothing of ours.
FOLDER has request.json and rows.npz, and gets result.json, model.onnx and answers.npz.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

# Of a booster without a class of scikit-learn's: what its objective makes of the sums of its trees.
_BINARY = ("binary:logistic", "binary", "reg:logistic", "cross_entropy")
_SEVERAL = ("multi:softprob", "multiclass", "softmax")


def main(folder: Path, memory_mb: int) -> None:
    """Do what request.json asks; result.json says how it went."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads((folder / "request.json").read_text())
    told: dict[str, Any] = {}
    try:
        for doing, work in (("load", _load), ("predict", _predict), ("convert", _convert)):
            step = doing
            work(folder, request, told)
    except MemoryError:
        told |= {"failed": f"converting the model needs more than {memory_mb} MB", "step": "memory"}
    except Exception as error:
        told |= {"failed": _told(error), "step": step}
    told.pop("model", None)
    (folder / "result.json").write_text(json.dumps(told))


def _load(folder: Path, request: dict[str, Any], told: dict[str, Any]) -> None:
    told["model"] = importlib.import_module(f"mlflow.{request['flavor']}").load_model(request["model"])
    told["class"] = type(told["model"]).__name__


def _predict(folder: Path, request: dict[str, Any], told: dict[str, Any]) -> None:
    import numpy as np

    model = told["model"]
    with np.load(folder / "rows.npz", allow_pickle=False) as saved:
        arrays = [saved[f"column{place}"] for place in range(len(request["rows"]))]
    rows = _rows(request, arrays)
    said: dict[str, Any] = {"predict": np.asarray(_asked(model, request["flavor"], rows))}
    told["form"] = [said["predict"].dtype.kind, list(said["predict"].shape[1:])]
    kind, classes = _kind(model), None
    if hasattr(model, "predict_proba"):
        said["predict_proba"] = np.asarray(model.predict_proba(rows))
        classes = [_json(value) for value in model.classes_]
    elif kind == "scores":
        said = {"predict_proba": _by_class(said["predict"])}
        classes = list(range(said["predict_proba"].shape[1]))
    elif said["predict"].ndim == 2 and said["predict"].shape[1] == 1:
        said["predict"] = said["predict"][:, 0]
    if "predict" in said and classes is not None:
        said["predict"] = said["predict"].reshape(len(said["predict"]))
    np.savez(folder / "answers.npz", allow_pickle=False, **{name: _plain(a) for name, a in said.items()})
    told |= {"kind": kind, "classes": classes}


def _rows(request: dict[str, Any], arrays: list[Any]) -> Any:
    import pandas as pd

    if request["is_table"]:
        return pd.DataFrame(dict(zip(request["rows"], arrays)))  # noqa: B905
    return arrays[0]


def _asked(model: Any, flavor: str, rows: Any) -> Any:
    if flavor == "xgboost" and type(model).__name__ == "Booster":
        import xgboost

        return model.predict(xgboost.DMatrix(rows))
    return model.predict(rows)


def _kind(model: Any) -> str | None:
    """`classifier`, `regressor`, `scores` for a bare booster that says how probable classes are, or None."""
    if hasattr(model, "predict_proba"):
        return "classifier"
    objective = _objective(model)
    if objective in (*_BINARY, *_SEVERAL):
        return "scores"
    is_regressor = type(model).__name__.endswith("Regressor") or objective.startswith(("reg:", "regression"))
    return "regressor" if is_regressor else None


def _objective(model: Any) -> str:
    if hasattr(model, "save_config"):
        return str(json.loads(model.save_config())["learner"]["objective"]["name"])
    parameters = getattr(model, "params", None) or {}
    if hasattr(model, "dump_model"):
        parameters = {"objective": model.dump_model(num_iteration=1).get("objective", ""), **parameters}
    return str(parameters.get("objective", "")).split(" ")[0]


def _by_class(answered: Any) -> Any:
    """The probability of yes, as those of no and yes."""
    import numpy as np

    return answered if answered.ndim == 2 else np.stack([1 - answered, answered], axis=1)


def _convert(folder: Path, request: dict[str, Any], told: dict[str, Any]) -> None:
    model, target = told["model"], folder / "model.onnx"
    if request["flavor"] == "catboost":
        # Its own exporter.
        model.save_model(str(target), format="onnx")
        told["versions"] = _versions("catboost")
        return
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    initial = [(request["input"], FloatTensorType([None, request["width"]]))]
    if request["flavor"] == "lightgbm":
        onnx = onnxmltools.convert_lightgbm(model, initial_types=initial, zipmap=False)
    else:
        booster = model if type(model).__name__ == "Booster" else model.get_booster()
        # The converter wants them called f0, f1 ...; they were asked by their names above.
        booster.feature_names = None
        onnx = onnxmltools.convert_xgboost(model, initial_types=initial)
    told["versions"] = _versions("onnxmltools", request["flavor"])
    target.write_bytes(onnx.SerializeToString(deterministic=True))


def _versions(*distributions: str) -> str:
    from importlib.metadata import version

    first, *others = [(name, version(name)) for name in distributions]
    beside = ", ".join(" ".join(one) for one in others)
    return first[1] + (f" ({beside})" if beside else "")


def _json(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _plain(array: Any) -> Any:
    return array.astype(str) if array.dtype == object else array


def _told(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:400] if lines else ''}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
