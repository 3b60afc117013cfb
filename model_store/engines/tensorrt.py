"""TensorRT and TensorRT-RTX: one API behind two sets of bindings, so one engine class.

Inputs go through pinned host buffers to device buffers of the largest profile, made once; a run copies,
enqueues and waits on one stream. Source: TensorRT developer guide, "Performing Inference".
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store.engines.base import Engine
from model_store.engines.cuda import CudaMemory, Memory
from model_store.engines.manifest import Manifest
from model_store.engines.signature import Shape, TensorSpec
from model_store.errors import Permanent

log = logging.getLogger("slipway.pod")

_BINDINGS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx_bindings"}


@dataclass(frozen=True, slots=True)
class _Buffer:
    """One tensor's places: pinned on the host (bytes) and on the device, both of the largest size."""

    spec: TensorSpec
    host: np.ndarray
    device: int

    def view(self, shape: Shape) -> np.ndarray:
        """The host side as an array of this shape."""
        size = int(np.prod(shape, dtype=np.int64)) * self.spec.datatype.size
        return self.host[:size].view(self.spec.datatype.dtype).reshape(shape)


class TensorRtEngine:
    """`trt` is the bindings module, `memory` the GPU's. `run` may come from any one thread at a time."""

    def __init__(self, manifest: Manifest, trt: Any, memory: Memory) -> None:
        self.platform = manifest.platform
        self._memory = memory
        self._logger = _logger(trt)
        self._runtime = trt.Runtime(self._logger)
        with manifest.loading() as file:
            self._engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if self._engine is None:
            raise _refused(manifest, "this GPU or TensorRT version does not take the engine")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise _refused(manifest, "there is no room for an execution context")
        least, most = self._rows(manifest)
        self.profiles: tuple[int, ...] = _profiles(least, most)
        self._inputs = [self._buffer(spec, most) for spec in manifest.signature.inputs]
        for buffer in self._inputs:
            self._context.set_input_shape(buffer.spec.name, (most, *buffer.spec.shape[1:]))
        self._outputs = [self._buffer(spec, most) for spec in manifest.signature.outputs]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        self._memory.activate()
        for buffer, array in zip(self._inputs, inputs, strict=True):
            np.copyto(buffer.view(array.shape), array)
            self._context.set_input_shape(buffer.spec.name, array.shape)
            self._memory.upload(buffer.host, buffer.device, array.nbytes)
        if not self._context.execute_async_v3(self._memory.stream):
            raise RuntimeError("TensorRT could not enqueue the batch")
        views = [
            buffer.view(tuple(self._context.get_tensor_shape(buffer.spec.name))) for buffer in self._outputs
        ]
        for buffer, view in zip(self._outputs, views, strict=True):
            self._memory.download(buffer.device, buffer.host, view.nbytes)
        self._memory.wait()
        # Copied: the next batch writes to the same buffers while answers of this one are being sent.
        return [view.copy() for view in views]

    def staging(self, rows: int) -> Sequence[np.ndarray] | None:
        """None: the buffers are the engine's own business."""
        return None

    def memory_bytes(self) -> int:
        return self._memory.used_bytes() + int(self._engine.device_memory_size_v2)

    def close(self) -> None:
        del self._context, self._engine, self._runtime
        self._memory.free()

    def _rows(self, manifest: Manifest) -> tuple[int, int]:
        """The fewest and most rows of the engine's first profile."""
        first = manifest.signature.inputs[0].name
        smallest, _, largest = self._engine.get_tensor_profile_shape(first, 0)
        return int(smallest[0]), int(largest[0])

    def _buffer(self, spec: TensorSpec, rows: int) -> _Buffer:
        if not spec.datatype.size:
            raise Permanent(
                f"tensor {spec.name!r} is BYTES", remedy="TensorRT has no text; serve onnxruntime"
            )
        shape = tuple(self._context.get_tensor_shape(spec.name))
        elements = int(np.prod([rows if size == -1 else size for size in shape], dtype=np.int64))
        size = elements * spec.datatype.size
        buffer = _Buffer(spec, self._memory.pinned(size), self._memory.allocate(size))
        self._context.set_tensor_address(spec.name, buffer.device)
        return buffer


def open_engine(manifest: Manifest) -> Engine:
    """Raises `Permanent` without the bindings, the GPU, or an engine made for it."""
    try:
        trt = importlib.import_module(_BINDINGS[manifest.platform])
    except ImportError as error:
        raise Permanent(
            f"{manifest.platform} is not installed: {error}",
            remedy="install requirements-tensorrt.txt, or serve the onnxruntime candidate",
        ) from error
    return TensorRtEngine(manifest, trt, CudaMemory())


def _profiles(least: int, most: int) -> tuple[int, ...]:
    """Batch sizes to round to: doubling, so that few shapes are ever specialised for."""
    if least == most:
        return (most,)
    sizes = {least, most, *(2**n for n in range(most.bit_length()) if least <= 2**n <= most)}
    return tuple(sorted(sizes))


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """TensorRT's warnings and errors in the pod's log."""

        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                log.warning("TensorRT: %s", message)

    return Logger()


def _refused(manifest: Manifest, why: str) -> Permanent:
    return Permanent(
        f"{manifest.file} cannot be loaded: {why}",
        remedy="build the engine for this GPU with this version, or serve the onnxruntime candidate",
    )
