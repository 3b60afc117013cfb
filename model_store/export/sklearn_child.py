"""Loads one scikit-learn model, converts it, and lets it predict: `python -I sklearn_child.py FOLDER MB`.

Runs alone and imports nothing of ours: what the model's code does ends with this process. FOLDER has
request.json and rows.npz, and gets result.json, model.onnx and answers.npz.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import resource
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Refused(Exception):  # noqa: N818
    """Becomes a `Permanent` in the parent."""

    def __init__(self, problem: str, remedy: str, *, may_convert: bool = False) -> None:
        super().__init__(problem)
        self.remedy = remedy
        # With inputs of other types.
        self.may_convert = may_convert


def main(folder: Path, memory_mb: int) -> None:
    """Do what request.json asks; result.json says how it went."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads((folder / "request.json").read_text())
    sys.path.extend(entry for entry in request["path"] if entry not in sys.path)
    try:
        result = _convert(request, folder)
    except Refused as refused:
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
    told = {**_says(model, said["predict"]), "versions": _versions()}
    if request["is_last"]:
        told["rounded"] = _changed_by_rounding(model, rows, said["predict"])
    # Last: what was told is wanted also where this fails.
    try:
        onnx = _to_onnx(model, request)
    except Refused as refused:
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
    except (Refused, MemoryError):
        raise
    except Exception as error:
        differing = request["differing"]
        raise Refused(
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
    from sklearn.exceptions import InconsistentVersionWarning

    here = sklearn.__version__
    for warning in caught:
        if not isinstance(warning.message, InconsistentVersionWarning):
            continue
        saved, minor = warning.message.original_sklearn_version, ".".join(here.split(".")[:2])
        if ".".join(saved.split(".")[:2]) != minor:
            raise Refused(
                f"{warning.message.estimator_name} was saved by scikit-learn {saved}, and scikit-learn"
                f" {here} is installed here: what it loads may be another model",
                f"log it with scikit-learn {minor}, or install scikit-learn {saved} here",
            )


def _load_skops(path: str, trusted: list[str]) -> Any:
    import skops.io

    if unknown := sorted(set(skops.io.get_untrusted_types(file=path)) - set(trusted)):
        raise Refused(
            f"the model contains types that the spec does not trust: {', '.join(unknown)}",
            "if they are harmless, add them to source.skops_trusted_types in the spec",
        )
    return skops.io.load(path, trusted=trusted)


def _to_onnx(model: Any, request: dict[str, Any]) -> Any:
    from skl2onnx.common import data_types as types
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

    tensors = {
        "FP32": types.FloatTensorType,
        "FP64": types.FloatTensorType if request["is_narrowed"] else types.DoubleTensorType,
        "INT64": types.Int64TensorType,
        "BYTES": types.StringTensorType,
    }
    initial = [(name, tensors[datatype]([None, *shape[1:]])) for name, datatype, shape in request["inputs"]]
    _let_booleans_be_numbers()
    _forget_transform(model)
    try:
        onnx = _in_order(_asked_by_name(model, initial, request["tensors"]))
        onnx = _with_all_letters(_in_any_locale(onnx))
        return _narrowing(onnx) if request["is_narrowed"] else onnx
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(
            f"skl2onnx cannot convert {type(model).__name__}: {_told(error)}",
            "use estimators that skl2onnx supports (sklearn-onnx documentation), or log the model as ONNX",
            may_convert=not isinstance(error, MissingConverter | MissingShapeCalculator),
        ) from error


def _converted(model: Any, initial: list[tuple[str, Any]]) -> Any:
    from skl2onnx import get_latest_tested_opset_version, to_onnx
    from sklearn.base import is_classifier

    # zipmap would wrap probabilities into a list of maps, which no tensor client can read.
    options: dict[str, Any] | None = {"zipmap": False} if is_classifier(model) else None
    opset: dict[str, int] | None = None
    while True:
        try:
            return to_onnx(model, initial_types=initial, options=options, target_opset=opset)
        except NameError as error:
            # Some classifiers have no such option, and answer tensors anyway.
            if options is None or "'zipmap'" not in str(error):
                raise
            options = None
        except RuntimeError as error:
            # Some converters know nothing of newer trees.
            if opset is not None or "target_opset={'ai.onnx.ml'" not in str(error):
                raise
            opset = {"": get_latest_tested_opset_version(), "ai.onnx.ml": 3}


def _asked_by_name(model: Any, initial: list[tuple[str, Any]], columns: dict[str, Any]) -> Any:
    try:
        return _converted(model, initial)
    except RuntimeError as error:
        if len(initial) > 1 or "Unable to find column name" not in str(error):
            raise
        return _by_columns(model, initial, columns[initial[0][0]])


def _by_columns(model: Any, initial: list[tuple[str, Any]], columns: list[str]) -> Any:
    """A pipeline that asks for its columns by name: converted with an input for each, which are then split
    from the one input that clients send.
    """
    from onnx import helper, numpy_helper

    ((name, tensor),) = initial
    onnx = _converted(model, [(column, type(tensor)([None, 1])) for column in columns])
    graph, element = onnx.graph, onnx.graph.input[0].type.tensor_type.elem_type
    sizes, parts = _ones(len(columns)), [each.name for each in graph.input]
    if max(each.version for each in onnx.opset_import if not each.domain) < 13:
        # Until then the sizes were an attribute, and skl2onnx writes the oldest opset that will do.
        split = helper.make_node("Split", [name], parts, axis=1, split=sizes.tolist())
    else:
        graph.initializer.append(numpy_helper.from_array(sizes, f"{name}_sizes"))
        split = helper.make_node("Split", [name, f"{name}_sizes"], parts, axis=1)
    nodes = [split, *graph.node]
    del graph.input[:], graph.node[:]
    graph.input.append(helper.make_tensor_value_info(name, element, [None, len(columns)]))
    graph.node.extend(nodes)
    return onnx


def _narrowing(onnx: Any) -> Any:
    """The same model with float64 inputs, which it rounds to float32 itself."""
    from onnx import TensorProto, helper

    casts = []
    for given in onnx.graph.input:
        if given.type.tensor_type.elem_type == TensorProto.FLOAT:
            given.type.tensor_type.elem_type = TensorProto.DOUBLE
            casts.append(helper.make_node("Cast", [given.name], [f"{given.name}_fp32"], to=TensorProto.FLOAT))
    rounded = {cast.input[0]: cast.output[0] for cast in casts}
    for node in onnx.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = rounded.get(name, name)
    nodes = [*casts, *onnx.graph.node]
    del onnx.graph.node[:]
    onnx.graph.node.extend(nodes)
    return onnx


def _ones(count: int) -> Any:
    import numpy as np

    return np.ones(count, np.int64)


def _forget_transform(model: Any) -> None:
    """skl2onnx refuses a voting classifier whose `transform` would be flat, and needs its votes alone."""
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    if getattr(last, "flatten_transform", False):
        last.flatten_transform = False


def _let_booleans_be_numbers() -> None:
    """onnx takes True no longer where an attribute is a list of integers, and skl2onnx 1.20 passes it for the
    nodes of histogram gradient boosting.
    """
    from skl2onnx.common import tree_ensemble

    add = tree_ensemble.add_node

    def add_with_numbers(*arguments: Any, **named: Any) -> Any:
        missing = "nodes_missing_value_tracks_true"
        return add(*arguments, **{**named, missing: int(named.get(missing, 0))})

    tree_ensemble.add_node = add_with_numbers


def _told(error: Exception) -> str:
    """Its name and first line: skl2onnx prints a whole forest into some messages. The cause says more."""
    cause = error.__cause__ or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0][:400] if lines else ''}"


def _in_order(onnx: Any) -> Any:
    """The same model with its operator sets sorted: skl2onnx lists them in the order of a Python set."""
    imports = sorted(onnx.opset_import, key=lambda imported: imported.domain)
    del onnx.opset_import[:]
    onnx.opset_import.extend(imports)
    return onnx


def _in_any_locale(onnx: Any) -> Any:
    """The same model with texts normalized by C.UTF-8, which knows the case of all letters as Python does and
    is in every Linux image. ONNX takes en_US.UTF-8 where none is said, and few images have that.
    """
    from onnx import helper

    for node in onnx.graph.node:
        if node.op_type == "StringNormalizer" and all(each.name != "locale" for each in node.attribute):
            node.attribute.append(helper.make_attribute("locale", "C.UTF-8"))
    return onnx


def _with_all_letters(onnx: Any) -> Any:
    """The same model with words of any alphabet. For scikit-learn's own pattern, two letters or more, what is
    converted has one of ASCII's letters or more.
    """
    for node in onnx.graph.node:
        for each in node.attribute if node.op_type == "Tokenizer" else ():
            if each.name == "tokenexp" and each.s == b"[a-zA-Z0-9_]+":
                each.s = rb"[\p{L}\p{N}_]{2,}"
    return onnx


def _predict(model: Any, rows: Any) -> dict[str, Any]:
    """What the estimator says, by method. Where it says how probable a class is, no other score is asked."""
    import numpy as np

    if not hasattr(model, "predict"):
        raise Refused(
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
        raise Refused(
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
        raise Refused("the model takes one array, and its signature has several", "log it with one input")
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
