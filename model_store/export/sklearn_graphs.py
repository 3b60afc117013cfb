"""What skl2onnx makes of a scikit-learn estimator, mended where it says something else than that.

Loaded by its path in the child that runs the model's code (`sklearn_child`), and so imports nothing of ours.
"""

from __future__ import annotations

from typing import Any


class GraphRefused(Exception):  # noqa: N818
    """Becomes a `Permanent` in the parent."""

    def __init__(self, problem: str, remedy: str, *, may_convert: bool = False) -> None:
        super().__init__(problem)
        self.remedy = remedy
        # With inputs of other types.
        self.may_convert = may_convert


def to_onnx(model: Any, request: dict[str, Any]) -> Any:
    from skl2onnx.common import data_types as types
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

    tensors = {
        "FP32": types.FloatTensorType,
        "FP64": types.FloatTensorType if request["narrowed"] == "at once" else types.DoubleTensorType,
        "INT64": types.Int64TensorType,
        "BYTES": types.StringTensorType,
    }
    initial = [(name, tensors[datatype]([None, *shape[1:]])) for name, datatype, shape in request["inputs"]]
    _let_booleans_be_numbers()
    _forget_transform(model)
    decides = _threshold(model)
    converted = _in_two if request["narrowed"] == "before the last step" else _asked_by_name
    try:
        onnx = converted(decides.estimator if decides else model, initial, request["tensors"])
        onnx = _with_all_letters(_in_any_locale(_in_order(onnx)))
        onnx = decides.in_graph(onnx) if decides else onnx
        return _narrowing(onnx) if request["narrowed"] == "at once" else onnx
    except (MemoryError, GraphRefused):
        raise
    except Exception as error:
        raise GraphRefused(
            f"skl2onnx cannot convert {type(model).__name__}: {_told(error)}",
            "use estimators that skl2onnx supports (sklearn-onnx documentation), or log the model as ONNX;"
            " source.flavor: pyfunc serves it as it is, without export",
            may_convert=not isinstance(error, MissingConverter | MissingShapeCalculator),
        ) from error


def _converted(model: Any, initial: list[tuple[str, Any]], *, opset: dict[str, int] | None = None) -> Any:
    from skl2onnx import get_latest_tested_opset_version
    from skl2onnx import to_onnx as converted

    options = _options(model)
    while True:
        try:
            return converted(model, initial_types=initial, options=options[0], target_opset=opset)
        except NameError as error:
            # Some classifiers have no such option, and answer tensors anyway.
            if len(options) == 1 or not str(error).startswith("Option '"):
                raise
            del options[0]
        except RuntimeError as error:
            # Some converters know nothing of newer trees.
            if opset is not None or "target_opset={'ai.onnx.ml'" not in str(error):
                raise
            opset = {"": get_latest_tested_opset_version(), "ai.onnx.ml": 3}


def _options(model: Any) -> list[dict[Any, Any] | None]:
    """What to ask of skl2onnx, the most welcome first. zipmap would wrap probabilities into a list of maps,
    which no tensor client can read; without raw_scores some answer votes, or scores with their sign turned.
    """
    from sklearn.base import is_classifier

    if not is_classifier(model):
        return [None]
    last = type(_last(model))
    plain: list[dict[Any, Any] | None] = [{"zipmap": False}, {last: {"zipmap": False}}, None]
    if hasattr(model, "predict_proba") or not hasattr(model, "decision_function"):
        return plain
    return [{last: {"zipmap": False, "raw_scores": True}}, *plain, {last: {"raw_scores": True}}]


def _last(model: Any) -> Any:
    """The estimator that decides."""
    while hasattr(model, "steps") or hasattr(model, "best_estimator_"):
        model = model.steps[-1][1] if hasattr(model, "steps") else model.best_estimator_
    return model


def _asked_by_name(
    model: Any,
    initial: list[tuple[str, Any]],
    columns: dict[str, Any],
    *,
    opset: dict[str, int] | None = None,
) -> Any:
    try:
        return _converted(model, initial, opset=opset)
    except RuntimeError as error:
        if len(initial) > 1 or "Unable to find column name" not in str(error):
            raise
        return _by_columns(model, initial, columns[initial[0][0]], opset)


def _by_columns(
    model: Any, initial: list[tuple[str, Any]], columns: list[str], opset: dict[str, int] | None
) -> Any:
    """A pipeline that asks for its columns by name: converted with an input for each, which are then split
    from the one input that clients send.
    """
    from onnx import helper, numpy_helper

    ((name, tensor),) = initial
    onnx = _converted(model, [(column, type(tensor)([None, 1])) for column in columns], opset=opset)
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


def _in_two(model: Any, initial: list[tuple[str, Any]], columns: dict[str, Any]) -> Any:
    """A pipeline whose trees get its float64 numbers as scikit-learn gives them: rounded to float32 after all
    that comes before them.
    """
    from onnx import TensorProto, helper
    from onnx.compose import merge_models
    from skl2onnx import get_latest_tested_opset_version
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.pipeline import Pipeline

    if not isinstance(model, Pipeline) or len(model.steps) < 2:
        raise GraphRefused("it is no pipeline", "", may_convert=True)
    opset = {"": get_latest_tested_opset_version(), "ai.onnx.ml": 3}
    width = getattr(model.steps[-1][1], "n_features_in_", None)
    before = _asked_by_name(Pipeline(model.steps[:-1]), initial, columns, opset=opset)
    last = _converted(model.steps[-1][1], [("rounded", FloatTensorType([None, width]))], opset=opset)
    made = before.graph.output[0]
    before.graph.node.append(helper.make_node("Cast", [made.name], ["as_float32"], to=TensorProto.FLOAT))
    before.graph.output.append(helper.make_tensor_value_info("as_float32", TensorProto.FLOAT, [None, width]))
    for one in (before, last):
        one.ir_version = 8
        _same_opsets(one, opset)
    outputs = [output.name for output in last.graph.output]
    onnx = merge_models(
        before, last, io_map=[("as_float32", "rounded")], outputs=[f"last_{name}" for name in outputs],
        prefix1="", prefix2="last_",
    )  # fmt: skip
    return _renamed(onnx, {f"last_{name}": name for name in outputs})


def _same_opsets(onnx: Any, opset: dict[str, int]) -> None:
    from onnx import helper

    del onnx.opset_import[:]
    onnx.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opset.items())


def _renamed(onnx: Any, names: dict[str, str]) -> Any:
    """The same model with other names of values."""
    for node in onnx.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for value in onnx.graph.output:
        value.name = names.get(value.name, value.name)
    return onnx


def _ones(count: int) -> Any:
    import numpy as np

    return np.ones(count, np.int64)


class _Threshold:
    """A classifier that decides at a threshold of its own between the two classes of another one, which
    skl2onnx knows nothing of.
    """

    def __init__(self, model: Any, threshold: float) -> None:
        self.estimator, self._threshold = model.estimator_, threshold
        classes = [value.item() if hasattr(value, "item") else value for value in model.classes_]
        at = 1 if model.pos_label is None else classes.index(model.pos_label)
        self._column, self._yes, self._no = at, classes[at], classes[1 - at]

    def in_graph(self, onnx: Any) -> Any:
        """The model with its label decided so."""
        import numpy as np
        from onnx import helper, numpy_helper

        graph = onnx.graph
        label, scores = graph.output[0].name, graph.output[1].name
        _renamed_inside(graph, label, f"{label}_of_the_estimator")
        kind = np.int64 if isinstance(self._yes, int) else object
        constants: dict[str, Any] = {
            "decides_column": np.array(self._column, np.int64),
            "decides_threshold": np.array(self._threshold, np.float32),
            "decides_yes": np.array([self._yes], kind),
            "decides_no": np.array([self._no], kind),
        }
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
        graph.node.extend(
            [
                helper.make_node("Gather", [scores, "decides_column"], ["decides_score"], axis=1),
                helper.make_node("GreaterOrEqual", ["decides_score", "decides_threshold"], ["decides"]),
                helper.make_node("Where", ["decides", "decides_yes", "decides_no"], [label]),
            ]
        )
        return onnx


def _threshold(model: Any) -> _Threshold | None:
    """Of scikit-learn's two, where they look at probabilities."""
    threshold: Any = getattr(model, "best_threshold_", getattr(model, "threshold", None))
    if type(model).__name__ not in ("FixedThresholdClassifier", "TunedThresholdClassifierCV"):
        return None
    model.pos_label = getattr(model, "pos_label", None)
    if not hasattr(model.estimator_, "predict_proba") or model.response_method == "decision_function":
        return None
    return _Threshold(model, 0.5 if threshold == "auto" else float(threshold))


def _renamed_inside(graph: Any, name: str, other: str) -> None:
    """The value under another name, so that something else can take its own."""
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [other if value == name else value for value in values]


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
