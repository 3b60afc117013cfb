"""ResNet-18 and -50 for 3x224x224 as ONNX graphs with random weights: what they cost does not depend on them.

Architecture: He et al., "Deep Residual Learning for Image Recognition" (2015), table 1. Batch normalisation
is folded into the convolutions, as every inference engine does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.bundles import model_of

# Width, stride of the first block, and how many blocks there are.
_STAGES_18 = ((64, 1, 2), (128, 2, 2), (256, 2, 2), (512, 2, 2))
_STAGES_50 = ((64, 1, 3), (128, 2, 4), (256, 2, 6), (512, 2, 3))
# Of a photograph's bytes, as torchvision's models expect them.
_MEAN, _DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class _Graph:
    """Nodes and weights as they are added; every method returns its output's name."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        scale = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.0
        values = (self._rng.standard_normal(shape) * scale).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def conv(self, last: str, channels: int, width: int, kernel: int, stride: int) -> str:
        weights = self.weight(width, channels, kernel, kernel), self.weight(width)
        pads = [kernel // 2] * 4
        return self.node("Conv", last, *weights, strides=[stride, stride], pads=pads)

    def block(self, last: str, channels: int, width: int, stride: int) -> str:
        inner = self.node("Relu", self.conv(last, channels, width, 3, stride))
        inner = self.conv(inner, width, width, 3, 1)
        return self._joined(inner, last, channels, width, stride)

    def bottleneck(self, last: str, channels: int, width: int, stride: int) -> str:
        inner = self.node("Relu", self.conv(last, channels, width, 1, 1))
        inner = self.node("Relu", self.conv(inner, width, width, 3, stride))
        inner = self.conv(inner, width, 4 * width, 1, 1)
        return self._joined(inner, last, channels, 4 * width, stride)

    def _joined(self, inner: str, last: str, channels: int, width: int, stride: int) -> str:
        shortcut = last if channels == width else self.conv(last, channels, width, 1, stride)
        # A tenth keeps random residuals from growing over the depth.
        tenth = self.node("Constant", value_float=0.1)
        return self.node("Relu", self.node("Add", self.node("Mul", inner, tenth), shortcut))

    def stem(self, last: str) -> str:
        last = self.node("Relu", self.conv(last, 3, 64, 7, 2))
        return self.node("MaxPool", last, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)

    def save(self, last: str, channels: int, kind: int, path: Path) -> None:
        last = self.node("Flatten", self.node("GlobalAveragePool", last))
        last = self.node("Gemm", last, self.weight(1000, channels), self.weight(1000), transB=1)
        self.nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
        value = helper.make_tensor_value_info
        inputs = [value("input", kind, ["N", 3, 224, 224])]
        outputs = [value("probabilities", TensorProto.FLOAT, ["N", 1000])]
        onnx.save(model_of(self.nodes, inputs, outputs, self.weights), path)


def resnet18(path: Path) -> None:
    """11.7 million parameters, 1.8 GFLOP a row."""
    graph = _Graph()
    last, channels = graph.stem("input"), 64
    for width, stride, blocks in _STAGES_18:
        for number in range(blocks):
            last = graph.block(last, channels, width, stride if number == 0 else 1)
            channels = width
    graph.save(last, channels, TensorProto.FLOAT, path)


def resnet50(path: Path) -> None:
    """25.6 million parameters, 4.1 GFLOP a row."""
    _resnet50(_Graph(), "input", TensorProto.FLOAT, path)


def resnet50_of_bytes(path: Path) -> None:
    """The same for photographs as clients have them: uint8, normalised in the graph."""
    graph = _Graph()
    pixels = graph.node("Cast", "input", to=TensorProto.FLOAT)
    mean, deviation = (
        graph.constant(np.array(each, np.float32).reshape(1, 3, 1, 1)) for each in (_MEAN, _DEVIATION)
    )
    scaled = graph.node("Div", graph.node("Sub", pixels, mean), deviation)
    _resnet50(graph, scaled, TensorProto.UINT8, path)


def _resnet50(graph: _Graph, first: str, kind: int, path: Path) -> None:
    last, channels = graph.stem(first), 64
    for width, stride, blocks in _STAGES_50:
        for number in range(blocks):
            last = graph.bottleneck(last, channels, width, stride if number == 0 else 1)
            channels = 4 * width
    graph.save(last, channels, kind, path)
