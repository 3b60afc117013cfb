"""onnxruntime on a GPU with bound tensors (SLIPWAY_DEVICE=cuda, package onnxruntime-gpu).

Inputs are copied to device memory that stays where it is, outputs come to pinned host memory, and a binding
is made once for each shape (docs/decisions/0029). An input bound on the host instead would be copied when it
is bound, not when the session runs. Copies and kernels share one stream, so nothing waits between them.
Source: onnxruntime's documentation, "I/O Binding" and "CUDA Execution Provider" (user_compute_stream).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort

from model_store.engines.base import Engine, EngineOutOfMemory
from model_store.engines.cuda import CudaMemory, Memory
from model_store.engines.manifest import Manifest
from model_store.engines.onnxruntime import OUT_OF_MEMORY, open_session
from model_store.engines.signature import Shape, TensorSpec
from model_store.errors import Permanent

_PROVIDER = "CUDAExecutionProvider"
# Above this the driver's own staging, which overlaps with the transfer, beats our copy to pinned memory.
_STAGED_UP_TO = 1024 * 1024
_REMEMBERED_BINDINGS = 256
_Place = TypeVar("_Place", "_Input", "_Output")


class _Input:
    """One input's device memory, and pinned memory for what is small; both grow to the largest batch seen."""

    def __init__(self, spec: TensorSpec, memory: Memory) -> None:
        self.spec, self._memory = spec, memory
        self.address = self._room = 0
        self._staging = np.empty(0, np.uint8)

    def holds(self, shape: Shape) -> bool:
        return _size(self.spec, shape) <= self._room

    def grow(self, shape: Shape) -> None:
        """To another address. Raises `EngineOutOfMemory`."""
        # Doubling, so that the smaller rooms before it are together never more than the last.
        room = max(_size(self.spec, shape), 2 * self._room)
        self.address, self._room = self._memory.allocate(room), room
        self._staging = self._memory.pinned(min(room, _STAGED_UP_TO))

    def upload(self, array: np.ndarray) -> None:
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if len(flat) <= len(self._staging):
            self._staging[: len(flat)] = flat
            flat = self._staging
        self._memory.upload(flat, self.address, array.nbytes)


class _Output:
    """One output's pinned memory, growing likewise."""

    def __init__(self, spec: TensorSpec, memory: Memory) -> None:
        self.spec, self._memory = spec, memory
        self._host = np.empty(0, np.uint8)

    def holds(self, shape: Shape) -> bool:
        return _size(self.spec, shape) <= len(self._host)

    def grow(self, shape: Shape) -> None:
        self._host = self._memory.pinned(max(_size(self.spec, shape), 2 * len(self._host)))

    def view(self, shape: Shape) -> np.ndarray:
        """The memory as an array of this shape."""
        return self._host[: _size(self.spec, shape)].view(self.spec.datatype.dtype).reshape(shape)


@dataclass(frozen=True, slots=True)
class _Bound:
    """onnxruntime's binding for some shapes, and where it writes (None: only onnxruntime knows how much)."""

    binding: Any
    outputs: tuple[np.ndarray | None, ...]


class OnnxRuntimeCudaEngine:
    """Fixed-size datatypes only: text and BF16 stay on the CPU engine. `device` is where `memory` is."""

    platform = "onnxruntime_cuda"
    profiles: tuple[int, ...] = ()

    def __init__(
        self, manifest: Manifest, memory: Memory, providers: Sequence[Any], device: str = "cuda"
    ) -> None:
        self._signature, self._memory, self._device = manifest.signature, memory, device
        specs = self._signature.inputs + self._signature.outputs
        unfit = [spec.name for spec in specs if not spec.datatype.size or spec.datatype.name == "BF16"]
        if unfit:
            raise Permanent(
                f"tensors {unfit} cannot be bound on a GPU", remedy="start the pod without SLIPWAY_DEVICE"
            )
        self._available_before = memory.available_bytes()
        self._session = open_session(manifest, providers)
        self._inputs = [_Input(spec, memory) for spec in self._signature.inputs]
        self._outputs = [_Output(spec, memory) for spec in self._signature.outputs]
        self._bindings: dict[tuple[Shape, ...], _Bound] = {}

    @property
    def providers(self) -> list[str]:
        """What the session really uses: onnxruntime falls back to the CPU without a word."""
        found: list[str] = self._session.get_providers()
        return found

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        self._memory.activate()
        try:
            return self._run(inputs)
        except EngineOutOfMemory:
            raise
        except Exception as error:
            if any(words in str(error) for words in OUT_OF_MEMORY):
                raise EngineOutOfMemory(str(error)) from error
            raise

    def memory_bytes(self) -> int:
        """Device memory gone since before the model was loaded: the engine's, on a GPU of its own."""
        self._memory.activate()
        return max(0, self._available_before - self._memory.available_bytes())

    def close(self) -> None:
        self._bindings.clear()
        del self._session
        self._memory.free()

    def _run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        bound = self._bound_for(tuple(array.shape for array in inputs))
        for place, array in zip(self._inputs, inputs, strict=True):
            place.upload(array)
        for target, view in zip(self._outputs, bound.outputs, strict=True):
            if view is None:
                bound.binding.bind_output(target.spec.name, "cpu")
        self._session.run_with_iobinding(bound.binding)
        values = bound.binding.get_outputs()
        # Copied: the next batch writes to the same memory while answers of this one are being sent.
        return [
            value.numpy() if view is None else view.copy()
            for view, value in zip(bound.outputs, values, strict=True)
        ]

    def _bound_for(self, shapes: tuple[Shape, ...]) -> _Bound:
        bound = self._bindings.get(shapes)
        if bound is None:
            bound = self._bind(shapes)
            if len(self._bindings) < _REMEMBERED_BINDINGS:
                self._bindings[shapes] = bound
        return bound

    def _bind(self, shapes: tuple[Shape, ...]) -> _Bound:
        rows = shapes[0][0] if self._signature.is_batched else 1
        written = [self._output_shape(place.spec, rows) for place in self._outputs]
        for place, shape in zip(self._inputs, shapes, strict=True):
            self._make_room(place, shape)
        views = tuple(
            None if shape is None else self._make_room(place, shape).view(shape)
            for place, shape in zip(self._outputs, written, strict=True)
        )
        binding = self._session.io_binding()
        for source, shape in zip(self._inputs, shapes, strict=True):
            dtype = source.spec.datatype.dtype
            binding.bind_input(source.spec.name, self._device, 0, dtype, shape, source.address)
        for target, view in zip(self._outputs, views, strict=True):
            if view is not None:
                binding.bind_output(target.spec.name, "cpu", 0, view.dtype, view.shape, view.ctypes.data)
        return _Bound(binding, views)

    def _make_room(self, place: _Place, shape: Shape) -> _Place:
        if not place.holds(shape):
            # First, for growing may fail half-way: a binding to an address left behind reads old rows.
            self._bindings.clear()
            place.grow(shape)
        return place

    def _output_shape(self, spec: TensorSpec, rows: int) -> Shape | None:
        """None where only onnxruntime knows it."""
        shape = (rows, *spec.shape[1:]) if self._signature.is_batched else spec.shape
        return None if -1 in shape else shape


def _size(spec: TensorSpec, shape: Shape) -> int:
    return int(np.prod(shape, dtype=np.int64)) * spec.datatype.size


def open_engine(manifest: Manifest) -> Engine:
    """Raises `Permanent` without onnxruntime-gpu or a GPU."""
    if _PROVIDER not in ort.get_available_providers():
        raise Permanent(
            "this onnxruntime has no CUDA", remedy="install onnxruntime-gpu instead of onnxruntime"
        )
    # CUDA and cuDNN as pip installs them (onnxruntime-gpu[cuda,cudnn]) are on no library path.
    ort.preload_dlls()
    memory = CudaMemory()
    options = {"device_id": "0", "user_compute_stream": str(memory.stream)}
    engine = OnnxRuntimeCudaEngine(manifest, memory, [(_PROVIDER, options), "CPUExecutionProvider"])
    if _PROVIDER not in engine.providers:
        engine.close()
        raise Permanent(
            "onnxruntime cannot use the GPU", remedy="check nvidia-smi, CUDA and cuDNN; see the pod's log"
        )
    return engine
