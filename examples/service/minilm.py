"""all-MiniLM-L6-v2 with a linear head as one ONNX graph, straight from its safetensors: no torch, no export.

The network is BERT with 6 layers of width 384 (Devlin et al., arXiv 1810.04805; Wang et al., MiniLM, arXiv
2002.10957), its output averaged over the tokens that are there and scaled to length 1, as
sentence-transformers does.

Inputs `input_ids` and `attention_mask`, int64 [N, T], both free; outputs `label` int64 [N] and
`probabilities` float32 [N, classes], or `embedding` float32 [N, 384] of the encoder alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Weights = Mapping[str, Array]

# onnxruntime 1.31 and TensorRT both read it, and it has LayerNormalization.
OPSET = 17
IR_VERSION = 10
# What a padded token's attention score is lowered by: e^-10000 is 0 in fp32, and in fp16 no infinity.
MASKED = -1e4

_DTYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}


@dataclass(frozen=True, slots=True)
class Config:
    """The sizes of the network, under the names of its config.json."""

    hidden_size: int
    num_attention_heads: int
    num_hidden_layers: int
    layer_norm_eps: float

    @classmethod
    def read(cls, path: Path) -> Config:
        """From config.json."""
        said = json.loads(path.read_text())
        return cls(**{name: said[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class Head:
    """A linear classifier on the embedding: `weights` [hidden, classes], `bias` [classes]."""

    weights: Array
    bias: Array


def read_safetensors(path: Path) -> dict[str, Array]:
    """Every tensor by name. The format: 8 bytes of length, a JSON header, the values (huggingface.co/docs/
    safetensors). Raises `ValueError` when the file is none."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 + size:
        raise ValueError(f"{path} is truncated or no safetensors file")
    header = json.loads(content[8 : 8 + size])
    header.pop("__metadata__", None)
    values = memoryview(content)[8 + size :]
    return {name: _tensor(values, said) for name, said in header.items()}


def _tensor(values: memoryview, said: Mapping[str, Any]) -> Array:
    begin, end = said["data_offsets"]
    return np.frombuffer(values[begin:end], _DTYPES[said["dtype"]]).reshape(said["shape"])


def encoder(weights: Weights, config: Config) -> ModelProto:
    """The embedding alone."""
    graph = _Graph(weights)
    graph.embed(config)
    return graph.model(_value("embedding", TensorProto.FLOAT, "N", config.hidden_size))


def classifier(weights: Weights, config: Config, head: Head) -> ModelProto:
    """The embedding and a head on it: what is registered and served."""
    graph = _Graph(weights)
    embedding = graph.embed(config)
    logits = graph.add(graph.product(embedding, head.weights, "head"), head.bias, "head.bias")
    graph.node("Softmax", [logits], output="probabilities", axis=-1)
    graph.node("ArgMax", [logits], output="label", axis=-1, keepdims=0)
    classes = len(head.bias)
    return graph.model(
        _value("label", TensorProto.INT64, "N"), _value("probabilities", TensorProto.FLOAT, "N", classes)
    )


@dataclass(slots=True)
class _Graph:
    """Nodes and constants as they are added; each method returns the name of its result."""

    weights: Weights
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)

    def embed(self, config: Config) -> str:
        hidden, bias = self._tokens(config), self._mask()
        for layer in range(config.num_hidden_layers):
            hidden = self._layer(f"encoder.layer.{layer}", hidden, bias, config)
        return self._mean(hidden)

    def _tokens(self, config: Config) -> str:
        """Word, position and segment of each token; the segment is always 0."""
        words = self.node("Gather", [self.weight("embeddings.word_embeddings.weight"), "input_ids"])
        length = self.node("Shape", ["input_ids"], start=1, end=2)
        places = self.node(
            "Slice",
            [
                self.weight("embeddings.position_embeddings.weight"),
                self.constant("first", np.array([0])),
                length,
                self.constant("axis 0", np.array([0])),
            ],
        )
        segment = self.weights["embeddings.token_type_embeddings.weight"][0]
        added = self.add(self.node("Add", [words, places]), segment, "segment")
        return self._norm("embeddings.LayerNorm", added, config)

    def _mask(self) -> str:
        """[N, 1, 1, T]: 0 where there is a token, else `MASKED`."""
        there = self.node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
        missing = self.node("Sub", [self.constant("one", np.float32(1)), there])
        lowered = self.node("Mul", [missing, self.constant("masked", np.float32(MASKED))])
        return self.node("Unsqueeze", [lowered, self.constant("axes 1, 2", np.array([1, 2]))])

    def _layer(self, name: str, hidden: str, bias: str, config: Config) -> str:
        attended = self._attention(f"{name}.attention", hidden, bias, config)
        hidden = self._norm(
            f"{name}.attention.output.LayerNorm", self.node("Add", [hidden, attended]), config
        )
        wide = self._gelu(self.linear(f"{name}.intermediate.dense", hidden))
        narrow = self.linear(f"{name}.output.dense", wide)
        return self._norm(f"{name}.output.LayerNorm", self.node("Add", [hidden, narrow]), config)

    def _attention(self, name: str, hidden: str, bias: str, config: Config) -> str:
        size = config.hidden_size // config.num_attention_heads
        heads = self.constant("heads", np.array([0, 0, config.num_attention_heads, size]))
        query, key, value = (
            self.node("Reshape", [self.linear(f"{name}.self.{part}", hidden), heads])
            for part in ("query", "key", "value")
        )
        query, value = (self.node("Transpose", [one], perm=[0, 2, 1, 3]) for one in (query, value))
        key = self.node("Transpose", [key], perm=[0, 2, 3, 1])
        scores = self.node(
            "Mul", [self.node("MatMul", [query, key]), self.constant("scale", np.float32(size**-0.5))]
        )
        shares = self.node("Softmax", [self.node("Add", [scores, bias])], axis=-1)
        mixed = self.node("Transpose", [self.node("MatMul", [shares, value])], perm=[0, 2, 1, 3])
        flat = self.constant("flat", np.array([0, 0, config.hidden_size]))
        return self.linear(f"{name}.output.dense", self.node("Reshape", [mixed, flat]))

    def _gelu(self, name: str) -> str:
        """x/2 * (1 + erf(x / sqrt 2)), as BERT has it; onnxruntime fuses it into one kernel."""
        bent = self.node("Erf", [self.node("Div", [name, self.constant("sqrt 2", np.float32(2**0.5))])])
        share = self.node("Add", [bent, self.constant("one", np.float32(1))])
        return self.node("Mul", [self.node("Mul", [name, share]), self.constant("half", np.float32(0.5))])

    def _mean(self, hidden: str) -> str:
        """The mean over the tokens that are there, scaled to length 1."""
        there = self.node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
        shares = self.node("Unsqueeze", [there, self.constant("axis 2", np.array([2]))])
        tokens = self.constant("axis 1", np.array([1]))
        total = self.node("ReduceSum", [self.node("Mul", [hidden, shares]), tokens], keepdims=0)
        # A mask of zeros only must not divide by zero: the answer is then the zero vector.
        count = self.node("Max", [self.node("ReduceSum", [shares, tokens], keepdims=0), self.tiny()])
        mean = self.node("Div", [total, count])
        length = self.node("Max", [self.node("ReduceL2", [mean], axes=[1], keepdims=1), self.tiny()])
        return self.node("Div", [mean, length], output="embedding")

    def tiny(self) -> str:
        return self.constant("tiny", np.float32(1e-9))

    def linear(self, name: str, value: str) -> str:
        """The file keeps weights as [out, in]."""
        product = self.product(value, self.weights[f"{name}.weight"].T, name)
        return self.add(product, self.weights[f"{name}.bias"], f"{name}.bias")

    def product(self, value: str, weights: Array, name: str) -> str:
        return self.node("MatMul", [value, self.constant(f"{name}.transposed", weights)], name=name)

    def add(self, value: str, constant: Array, name: str) -> str:
        return self.node("Add", [value, self.constant(name, constant)])

    def _norm(self, name: str, value: str, config: Config) -> str:
        scale, shift = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", [value, scale, shift], axis=-1, epsilon=config.layer_norm_eps)

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def constant(self, name: str, value: Array | np.generic) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def node(
        self, kind: str, inputs: list[str], *, name: str = "", output: str = "", **attributes: Any
    ) -> str:
        name = name or f"{kind}_{len(self.nodes)}"
        output = output or f"{name}/out"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def model(self, *outputs: onnx.ValueInfoProto) -> ModelProto:
        inputs = [_value(name, TensorProto.INT64, "N", "T") for name in ("input_ids", "attention_mask")]
        graph = helper.make_graph(self.nodes, "minilm", inputs, outputs, list(self.constants.values()))
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="slipway")
        onnx.checker.check_model(model)
        return model


def _value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
