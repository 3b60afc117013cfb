"""The same model in fewer bits: fp16, and int8 in two layouts, as artifacts of their own.

int8 for onnxruntime and int8 for TensorRT differ (docs/decisions/0015): onnxruntime's fast kernels want
unsigned activations and int32 biases, which TensorRT does not parse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from model_store.arrays import Rows
from model_store.errors import Permanent
from model_store.storage.store import Store
from model_store.types import Artifact, Precision, Toolchain

Layout = Literal["onnxruntime", "tensorrt"]
LAYOUTS: tuple[Layout, ...] = ("onnxruntime", "tensorrt")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True, slots=True)
class Search:
    """Bounds of the int8 search. `max_changed` is the share of calibration rows whose decision may change;
    half of that may be expected to be lost. `max_units` limits the nodes (or groups) tried one by one.

    `by_values`: the model answers numbers that decide nothing by themselves (a regression, a ranking).
    `max_changed` is then the RMS difference as a share of an output's own spread.
    """

    max_changed: float = 0.01
    by_values: bool = False
    max_rows: int = 512
    max_units: int = 24


@dataclass(frozen=True, slots=True)
class NotQuantized:
    """Why a model does not exist in this precision. A recorded outcome, not an error."""

    reason: str


class UnknownPrecision(Permanent):
    """A precision or layout that does not exist."""


def quantize(
    store: Store,
    artifact: Artifact,
    precision: Precision,
    layout: Layout,
    calibration: Rows,
    *,
    search: Search | None = None,
) -> Artifact | NotQuantized:
    """`artifact` (ONNX, fp32) in `precision`. The same inputs give the same bytes.

    `calibration` holds unlabelled rows [N, ...] by input name. For fp32 the result is the model with
    `ai.onnx.ml` operators lowered. Raises `Permanent` (UnknownPrecision) listing what exists, or when the
    model cannot run on the calibration rows.
    """
    _known("precision", precision, PRECISIONS)
    _known("layout", layout, LAYOUTS)
    with store.scratch() as folder:
        content, how = _converted(artifact.path, folder, precision, layout, calibration, search or Search())
    if content is None:
        return NotQuantized(str(how["reason"]))
    return store.put(
        content,
        format="onnx",
        precision=precision,
        parent_digest=artifact.digest,
        toolchain=_toolchain(precision),
        provenance=how,
    )


def _converted(
    source: Path,
    folder: Path,
    precision: Precision,
    layout: Layout,
    calibration: Rows,
    search: Search,
) -> tuple[bytes | None, Mapping[str, Any]]:
    from model_store.quantize import half, int8
    from model_store.quantize.prepare import prepared

    model = prepared(source, folder)
    if precision == "fp32":
        return model.SerializeToString(deterministic=True), {"layout": layout}
    if already := sorted({node.op_type for node in model.graph.node if _is_quantized(node.op_type)}):
        return None, {"reason": f"the version was registered quantized already: it has {', '.join(already)}"}
    if precision == "fp16":
        return half.convert(model, calibration)
    return int8.convert(model, layout, calibration, folder, **asdict(search))


def _is_quantized(operator: str) -> bool:
    """Whether an operator of this name computes in 8 bits, or takes numbers there or back."""
    return operator.startswith("QLinear") or operator in (
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger",
    )  # fmt: skip


def _toolchain(precision: Precision) -> Toolchain:
    from importlib.metadata import version

    if precision == "fp32":
        return Toolchain("onnx", version("onnx"))
    return Toolchain("onnxruntime.quantization", version("onnxruntime"))


def _known(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UnknownPrecision(f"unknown {what} {name!r}", remedy=f"use one of: {', '.join(known)}")
