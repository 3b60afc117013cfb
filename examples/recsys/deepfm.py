"""DeepFM in plain numpy, with gradients by hand and Adam, and as one ONNX graph: no torch needed.

Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017 (arXiv
1703.04247): one embedding of each field feeds a linear term, every pair's dot product, and a small network;
their sum is the log odds. Adam: Kingma & Ba, arXiv 1412.6980.

Inputs `ids` int64 [N, fields] (a number within each field) and `genres` float32 [N, genres] (1 for each genre
the film has; their mean is one more field). Outputs `label` int64 [N], `probabilities` float32 [N, 2].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Parameters = dict[str, Array]

OPSET = 17
IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class Shape:
    """`fields`: how many numbers each field has; `genres`: how many genres there are."""

    fields: tuple[int, ...]
    genres: int
    width: int = 16
    hidden: tuple[int, int] = (96, 48)

    @property
    def starts(self) -> Array:
        """Where each field's rows begin in the one table of all fields."""
        return np.cumsum((0, *self.fields[:-1])).astype(np.int64)

    @property
    def rows(self) -> int:
        return sum(self.fields)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. `decay` is the weight of the squares of all parameters, `keep` the dropout's."""

    epochs: int = 10
    batch: int = 512
    rate: float = 0.002
    decay: float = 4e-4
    keep: float = 0.8
    seed: int = 0


def initial(shape: Shape, rng: np.random.Generator) -> Parameters:
    """Small random embeddings; He's initialisation of the network (arXiv 1502.01852)."""
    first, second = shape.hidden
    sizes = ((len(shape.fields) + 1) * shape.width, first, second, 1)
    network = {
        f"{kind}{layer}": rng.normal(0, (2 / sizes[layer]) ** 0.5, (sizes[layer], sizes[layer + 1]))
        if kind == "w"
        else np.zeros(sizes[layer + 1])
        for layer in range(3)
        for kind in "wb"
    }
    tables = {
        "table": rng.normal(0, 0.05, (shape.rows, shape.width)),
        "linear": np.zeros((shape.rows, 1)),
        "genre_table": rng.normal(0, 0.05, (shape.genres, shape.width)),
        "genre_linear": np.zeros((shape.genres, 1)),
        "bias": np.zeros(1),
    }
    return {name: value.astype(np.float32) for name, value in (tables | network).items()}


@dataclass(slots=True)
class Pass:
    """What a forward pass keeps for the way back. `vectors` [N, fields + 1, width], `logits` [N]."""

    rows: Array
    shares: Array
    vectors: Array
    layers: list[Array]
    drop: list[Array]
    logits: Array


def forward(
    parameters: Parameters, shape: Shape, ids: Array, genres: Array, drop: Sequence[Array] = ()
) -> Pass:
    """Log odds of every row. `drop`: what each hidden layer is multiplied by (dropout), if anything."""
    rows = ids + shape.starts
    shares = genres / np.maximum(genres.sum(1, keepdims=True), 1)
    of_genres = (shares @ parameters["genre_table"])[:, None]
    vectors = np.concatenate([parameters["table"][rows], of_genres], axis=1)
    linear = parameters["linear"][rows].sum(1) + shares @ parameters["genre_linear"]
    pairs = ((vectors.sum(1) ** 2) - (vectors**2).sum(1)).sum(1) / 2
    layers = [vectors.reshape(len(rows), -1)]
    for layer in range(2):
        active = np.maximum(layers[-1] @ parameters[f"w{layer}"] + parameters[f"b{layer}"], 0)
        layers.append(active * drop[layer] if drop else active)
    deep = layers[-1] @ parameters["w2"] + parameters["b2"]
    logits = linear[:, 0] + pairs + deep[:, 0] + parameters["bias"][0]
    return Pass(rows, shares, vectors, layers, list(drop), logits)


def gradients(parameters: Parameters, done: Pass, labels: Array) -> Parameters:
    """Of the mean log loss, by parameter."""
    error = ((sigmoid(done.logits) - labels) / len(labels))[:, None].astype(np.float32)
    found: Parameters = {"bias": error.sum(0)}
    back = error
    for layer in (2, 1, 0):
        found[f"w{layer}"], found[f"b{layer}"] = done.layers[layer].T @ back, back.sum(0)
        back = back @ parameters[f"w{layer}"].T
        if layer:
            back = back * (done.layers[layer] > 0) * (done.drop[layer - 1] if done.drop else 1)
    # d/dv of the pairs is the sum of all the other fields' vectors.
    others = done.vectors.sum(1, keepdims=True) - done.vectors
    of_vectors = back.reshape(done.vectors.shape) + error[:, :, None] * others
    found["table"] = _summed(done.rows, of_vectors[:, :-1], parameters["table"])
    found["linear"] = _summed(
        done.rows, np.broadcast_to(error[:, None], (*done.rows.shape, 1)), parameters["linear"]
    )
    found["genre_table"] = done.shares.T @ of_vectors[:, -1]
    found["genre_linear"] = done.shares.T @ error
    return found


def _summed(rows: Array, values: Array, like: Array) -> Array:
    """The values added up by the row of the table they belong to."""
    total = np.zeros_like(like)
    np.add.at(total, rows.reshape(-1), values.reshape(-1, like.shape[1]))
    return total


def sigmoid(logits: Array) -> Array:
    """1 / (1 + e^-x), without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))


def train(shape: Shape, ids: Array, genres: Array, labels: Array, recipe: Recipe | None = None) -> Parameters:
    """Parameters after `recipe.epochs` rounds of Adam. The same rows and recipe give the same parameters."""
    recipe = recipe or Recipe()
    rng = np.random.default_rng(recipe.seed)
    parameters = initial(shape, rng)
    adam = Adam(parameters, recipe.rate)
    for rows in _batches(len(labels), recipe, rng):
        drop = [
            (rng.random((len(rows), size)) < recipe.keep).astype(np.float32) / recipe.keep
            for size in shape.hidden
        ]
        done = forward(parameters, shape, ids[rows], genres[rows], drop)
        found = gradients(parameters, done, labels[rows])
        adam.step({name: value + recipe.decay * parameters[name] for name, value in found.items()})
    return parameters


def _batches(count: int, recipe: Recipe, rng: np.random.Generator) -> Iterator[Array]:
    for _ in range(recipe.epochs):
        order = rng.permutation(count)
        for start in range(0, count, recipe.batch):
            yield order[start : start + recipe.batch]


class Adam:
    """Changes `parameters` in place."""

    def __init__(self, parameters: Parameters, rate: float) -> None:
        self._parameters, self._rate, self._steps = parameters, rate, 0
        self._means = {name: np.zeros_like(value) for name, value in parameters.items()}
        self._squares = {name: np.zeros_like(value) for name, value in parameters.items()}

    def step(self, found: Mapping[str, Array]) -> None:
        """One step down the gradients `found`."""
        self._steps += 1
        for name, gradient in found.items():
            mean, square = self._means[name], self._squares[name]
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            steep = mean / (1 - 0.9**self._steps)
            size = np.sqrt(square / (1 - 0.999**self._steps)) + 1e-8
            self._parameters[name] -= (self._rate * steep / size).astype(np.float32)


def predict(parameters: Parameters, shape: Shape, ids: Array, genres: Array) -> Array:
    """How likely each row is positive [N]."""
    return sigmoid(forward(parameters, shape, ids, genres).logits)


def to_onnx(parameters: Parameters, shape: Shape) -> ModelProto:
    """The same function as `predict`, checked."""
    graph = _Graph(parameters)
    rows = graph.node("Add", "ids", graph.constant("starts", shape.starts))
    films = graph.node("ReduceSum", "genres", graph.constant("axis 1", np.array([1])), keepdims=1)
    shares = graph.node("Div", "genres", graph.node("Max", films, graph.constant("one", np.float32(1))))
    vectors = graph.vectors(rows, shares, shape)
    logits = graph.node("Add", graph.linear(rows, shares), graph.pairs(vectors))
    logits = graph.node("Add", logits, graph.deep(vectors, shape))
    logits = graph.node("Add", logits, graph.constant("bias"))
    liked = graph.node("Sigmoid", logits)
    rest = graph.node("Sub", graph.constant("one"), liked)
    both = graph.node("Concat", rest, liked, output="probabilities", axis=1)
    graph.node("ArgMax", both, output="label", axis=1, keepdims=0)
    return graph.model(shape)


class _Graph:
    """Nodes as they are added; each method returns the name of its result."""

    def __init__(self, parameters: Parameters) -> None:
        self._values: dict[str, Array | np.generic] = dict(parameters)
        self._used: set[str] = set()
        self._nodes: list[NodeProto] = []

    def vectors(self, rows: str, shares: str, shape: Shape) -> str:
        """[N, fields + 1, width]"""
        ids = self.node("Gather", self.constant("table"), rows)
        genres = self.node("MatMul", shares, self.constant("genre_table"))
        one = self.constant("axis 1", np.array([1]))
        return self.node("Concat", ids, self.node("Unsqueeze", genres, one), axis=1)

    def linear(self, rows: str, shares: str) -> str:
        one = self.constant("axis 1", np.array([1]))
        ids = self.node("ReduceSum", self.node("Gather", self.constant("linear"), rows), one, keepdims=0)
        return self.node("Add", ids, self.node("MatMul", shares, self.constant("genre_linear")))

    def pairs(self, vectors: str) -> str:
        """Half of (the square of the sum less the sum of the squares): every pair's product, once."""
        one = self.constant("axis 1", np.array([1]))
        total = self.node("ReduceSum", vectors, one, keepdims=0)
        squares = self.node("ReduceSum", self.node("Mul", vectors, vectors), one, keepdims=0)
        both = self.node("Sub", self.node("Mul", total, total), squares)
        return self.node(
            "Mul", self.node("ReduceSum", both, one, keepdims=1), self.constant("half", np.float32(0.5))
        )

    def deep(self, vectors: str, shape: Shape) -> str:
        width = (len(shape.fields) + 1) * shape.width
        last = self.node("Reshape", vectors, self.constant("flat", np.array([0, width])))
        for layer in range(3):
            last = self.node("Gemm", last, self.constant(f"w{layer}"), self.constant(f"b{layer}"))
            last = self.node("Relu", last) if layer < 2 else last
        return last

    def constant(self, name: str, value: Array | np.generic | None = None) -> str:
        """One of the parameters, or a value of the graph's own."""
        if value is not None:
            self._values[name] = value
        self._used.add(name)
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output or f"{name}/out"], name=name, **attributes))
        return output or f"{name}/out"

    def model(self, shape: Shape) -> ModelProto:
        value = helper.make_tensor_value_info
        inputs = [
            value("ids", TensorProto.INT64, ["N", len(shape.fields)]),
            value("genres", TensorProto.FLOAT, ["N", shape.genres]),
        ]
        outputs = [
            value("label", TensorProto.INT64, ["N"]),
            value("probabilities", TensorProto.FLOAT, ["N", 2]),
        ]
        constants = [
            numpy_helper.from_array(np.asarray(self._values[name]), name) for name in sorted(self._used)
        ]
        graph = helper.make_graph(self._nodes, "deepfm", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="slipway")
        onnx.checker.check_model(model)
        return model
