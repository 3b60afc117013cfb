"""Static int8 QDQ, per channel, in the layout each runtime wants, with as few nodes in fp32 as needed."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto
from onnxruntime.quantization import QuantType

from model_store.arrays import Rows, count_rows
from model_store.inference import (
    answer,
    batches,
    fixed_batch,
    open_session,
    session_config,
)
from model_store.quantize.exclude import QuantizedModel, Recipe, Units, search_exclusions
from model_store.quantize.prepare import CALIBRATION_BATCH, raised, spread
from model_store.quantize.readout import Readout

Array = np.ndarray[Any, Any]

# Where the arithmetic is. Everything else (Add, Mul, Sigmoid ...) costs accuracy in 8 bits and gains nothing:
# a Mul over raw features alone takes the credit model from 0.78 to the share of its larger class.
HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# onnxruntime folds these into the operator before or after them, TensorRT fuses them by itself.
FOLDED_BY_ONNXRUNTIME = ("Clip", "MaxPool", "Relu")
# ValueError in _adjust_weight_scale_for_int32_bias on models with per-channel weights and tiny scales.
KEEP_SCALES = {"QDQDisableWeightAdjustForInt32Bias": True}
ONE_SCALE = {"quant_type": QuantType.QInt8, "symmetric": True}
# DequantizeLinear has an axis, and so a scale per channel, since this opset.
QDQ_OPSET = 13
TENSORRT_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    **KEEP_SCALES,
}


# In the order they are tried. Histograms are filled batch by batch (that is what "strided" means for them):
# otherwise every activation of every row is in memory at once, gigabytes for a transformer.
METHODS: dict[str, dict[str, Any]] = {
    "MinMax": {},
    "Percentile": {"CalibPercentile": 99.99, "CalibStridedMinMax": 1},
}


def convert(
    model: ModelProto,
    layout: str,
    calibration: Rows,
    folder: Path,
    *,
    max_changed: float,
    by_values: bool,
    max_rows: int,
    max_units: int,
) -> tuple[bytes | None, dict[str, Any]]:
    """int8 bytes and how they were found, or None and the reason.

    Ranges are calibrated with MinMax first (no outlier is ever clipped); if more than `max_changed` of the
    decisions on the calibration rows change, with percentile 99.99; then nodes go back to fp32, the most
    harmful first (see `exclude`), until few enough change.
    """
    model = raised(model, QDQ_OPSET)
    with _quiet(), _temporary_files_in(folder):
        trial = (ValueTrial if by_values else Trial)(model, folder, calibration, max_rows)
        units = Units.of(model, HEAVY, max_units=max_units)
        if not units.nodes:
            where = "is in the model outside branches and loops"
            return None, {"reason": f"no operator to quantize: none of {', '.join(HEAVY)} {where}"}
        found = _find(trial, layout, units, max_changed)
    rows = count_rows(trial.rows)
    return found.model.read_bytes(), {"layout": layout, "calibration_rows": rows, **found.described()}


def _find(trial: Trial, layout: str, units: Units, max_changed: float) -> QuantizedModel:
    """The first recipe that changes few enough decisions; else exclusions on the best recipe."""
    tried: list[QuantizedModel] = []
    for method in METHODS:
        recipe = Recipe(layout, method)
        found = trial.run(recipe, excluded=())
        tried.append(found)
        if found.keeps(max_changed):
            return found
    best = min(tried, key=lambda found: found.loss)
    return search_exclusions(trial.run, best, units, max_changed)


class Trial:
    """Quantizes one model again and again, calibrating each recipe once. What it makes lies in `folder`."""

    def __init__(self, model: ModelProto, folder: Path, calibration: Rows, max_rows: int) -> None:
        self._folder, self._made = folder, 0
        self._stacked = _stacked_weights(model)
        self._path = folder / "model.onnx"
        onnx.save(model, self._path)
        session = open_session(self._path)
        self._batch = fixed_batch(session) or CALIBRATION_BATCH
        self.rows = spread(calibration, max_rows, self._batch)
        self._expected = answer(session, self.rows)
        self._read()

    def _read(self) -> None:
        self._readout = Readout.find(self._expected)
        self._decisions = self._readout.decisions(self._expected)
        self._probabilities = _probabilities(self._readout, self._expected)

    def run(self, recipe: Recipe, excluded: tuple[str, ...]) -> QuantizedModel:
        """Quantize all heavy nodes but `excluded`, and measure what changed on the calibration rows."""
        made = self._quantized(recipe, excluded)
        got = answer(open_session(made, config=session_config("int8")), self.rows)
        return QuantizedModel(made, recipe, excluded, *self._changed(got))

    def _changed(self, got: dict[str, Array]) -> tuple[float, float, float]:
        """Shares of decisions that changed and that are expected to be lost, and the scores' distance."""
        decisions = self._readout.decisions(got)
        changed = float(np.mean(decisions != self._decisions))
        return changed, self._lost(decisions), self._distance(got)

    def _lost(self, decisions: np.ndarray[Any, Any]) -> float:
        """Share of rows expected to be right no longer: by how much more the original itself believed in its
        own decision than in the new one. All that changed, where the model says no probabilities.

        A coin's toss near the boundary is lost as often as won; a sure answer turned round is lost.
        """
        if self._probabilities is None:
            return float(np.mean(decisions != self._decisions))
        # A class number that is no column is one the original never decides for: all of its row is lost.
        is_column = (decisions >= 0) & (decisions < self._probabilities.shape[1])
        believed = np.ones(len(decisions))
        rows = np.flatnonzero(is_column)
        before, after = self._decisions[rows], decisions[rows]
        believed[rows] = self._probabilities[rows, before] - self._probabilities[rows, after]
        return float(np.mean(np.clip(believed, 0, 1)))

    def _distance(self, got: dict[str, np.ndarray[Any, Any]]) -> float:
        """RMS difference of the scores: breaks ties between equal shares of changed decisions."""
        if self._readout.scores is None:
            return 0.0
        difference = self._readout.class_scores(got) - self._readout.class_scores(self._expected)
        return float(np.sqrt(np.mean(np.nan_to_num(difference, nan=1e9, posinf=1e9, neginf=-1e9) ** 2)))

    def _quantized(self, recipe: Recipe, excluded: tuple[str, ...]) -> Path:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, quantize_static

        self._made += 1
        target = self._folder / f"quantized-{self._made}.onnx"
        is_tensorrt = recipe.layout == "tensorrt"
        quantize_static(
            self._path,
            target,
            _reader(self.rows, self._batch),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(HEAVY if is_tensorrt else HEAVY + FOLDED_BY_ONNXRUNTIME),
            nodes_to_exclude=list(excluded),
            per_channel=True,
            activation_type=QuantType.QInt8 if is_tensorrt else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[recipe.method],
            calibration_cache_path=self._folder / f"{recipe.method}.json",
            extra_options={
                **(TENSORRT_OPTIONS if is_tensorrt else KEEP_SCALES),
                **METHODS[recipe.method],
                "TensorQuantOverrides": {name: [ONE_SCALE] for name in self._stacked},
            },
        )
        return target


class ValueTrial(Trial):
    """Of a model whose numbers decide nothing by themselves: how far they move, in terms of their spread."""

    def _read(self) -> None:
        pass

    def _changed(self, got: dict[str, Array]) -> tuple[float, float, float]:
        moved = max(_moved(self._expected[name], got[name]) for name in self._expected)
        return moved, moved / 2, moved


def _moved(before: Array, after: Array) -> float:
    """RMS difference as a share of the standard deviation; of what is no number, the share that differs."""
    if before.dtype.kind != "f":
        return float(np.mean(before != after))
    difference = np.nan_to_num(after.astype(np.float64) - before, nan=1e9, posinf=1e9, neginf=-1e9)
    spread = float(np.std(before, dtype=np.float64)) or 1.0
    return float(np.sqrt(np.mean(difference**2))) / spread


def _stacked_weights(model: ModelProto) -> list[str]:
    """Weights of MatMul that are no matrix: (1, K, N), or one matrix for each expert or head.

    onnxruntime's kernel takes one scale for such a weight, and its quantizer would make one for each row.
    """
    multiplied = {name for node in model.graph.node if node.op_type == "MatMul" for name in node.input}
    return [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.name in multiplied and len(tensor.dims) != 2
    ]


def _probabilities(readout: Readout, outputs: dict[str, Array]) -> Array | None:
    """[N, C] by class number; None unless the scores are such, and the decision is the likeliest class."""
    if readout.scores is None:
        return None
    scores = readout.class_scores(outputs)
    are_shares = scores.min() >= 0 and np.allclose(scores.sum(axis=1), 1, atol=0.01)
    # Class numbers that are no columns (labels 1 and 2, say) cannot be looked up.
    is_likeliest = np.array_equal(np.argmax(scores, axis=1), readout.decisions(outputs))
    return scores if are_shares and is_likeliest else None


def _reader(rows: Rows, batch: int) -> Any:
    """The rows as onnxruntime's calibrators read them, one batch at a time, also from and to a batch."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = list(batches(rows, batch))
            self.set_range(0, len(self))

        def __len__(self) -> int:
            return len(self._batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._left = iter(self._batches[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            return next(self._left, None)

    return Reader()


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """onnxruntime.quantization keeps whole models in TMPDIR, where what a killed build left stays."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime.quantization prints progress and advises through the root logger: noise to our users."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
