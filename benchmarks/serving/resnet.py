"""ResNet-18 for 3x224x224 as an ONNX graph with random weights: what it costs does not depend on them.

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

_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


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
        shortcut = last if channels == width else self.conv(last, channels, width, 1, stride)
        # A tenth keeps random residuals from growing over the depth.
        tenth = self.node("Constant", value_float=0.1)
        return self.node("Relu", self.node("Add", self.node("Mul", inner, tenth), shortcut))


def resnet18(path: Path) -> None:
    """11.7 million parameters, 1.8 GFLOP a row."""
    graph = _Graph()
    last = graph.node("Relu", graph.conv("input", 3, 64, 7, 2))
    last, channels = graph.node("MaxPool", last, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 64
    for width, stride in _STAGES:
        last = graph.block(last, channels, width, stride)
        last, channels = graph.block(last, width, width, 1), width
    last = graph.node("Flatten", graph.node("GlobalAveragePool", last))
    last = graph.node("Gemm", last, graph.weight(1000, 512), graph.weight(1000), transB=1)
    graph.nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
    value = helper.make_tensor_value_info
    inputs = [value("input", TensorProto.FLOAT, ["N", 3, 224, 224])]
    outputs = [value("probabilities", TensorProto.FLOAT, ["N", 1000])]
    onnx.save(model_of(graph.nodes, inputs, outputs, graph.weights), path)
