"""onnxruntime on a GPU, its tensors bound to device memory (SLIPWAY_DEVICE=cuda, package onnxruntime-gpu).

IO binding keeps onnxruntime from allocating and copying for every run: inputs are written once to the GPU,
outputs are left there until asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from model_store.errors import Permanent
from serving.runtime.engine.base import Engine, EngineOutOfMemory
from serving.runtime.engine.onnxruntime import OUT_OF_MEMORY, open_session
from serving.runtime.manifest import Manifest

_PROVIDER = "CUDAExecutionProvider"


class OnnxRuntimeCudaEngine:
    """Fixed-size datatypes only: text and BF16 stay on the CPU engine."""

    platform = "onnxruntime_cuda"
    profiles: tuple[int, ...] = ()

    def __init__(self, manifest: Manifest) -> None:
        specs = manifest.signature.inputs + manifest.signature.outputs
        unfit = [spec.name for spec in specs if not spec.datatype.size or spec.datatype.name == "BF16"]
        if unfit:
            raise Permanent(
                f"tensors {unfit} cannot be bound on a GPU", remedy="start the pod without SLIPWAY_DEVICE"
            )
        self._session = open_session(manifest, [(_PROVIDER, {"device_id": 0}), "CPUExecutionProvider"])
        if _PROVIDER not in self._session.get_providers():
            raise Permanent("onnxruntime sees no GPU", remedy="install onnxruntime-gpu; check nvidia-smi")
        self._inputs = [spec.name for spec in manifest.signature.inputs]
        self._outputs = [spec.name for spec in manifest.signature.outputs]
        self._most_bytes = 0

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        binding = self._session.io_binding()
        try:
            for name, array in zip(self._inputs, inputs, strict=True):
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
            for name in self._outputs:
                binding.bind_output(name, "cuda", 0)
            self._session.run_with_iobinding(binding)
            found: list[np.ndarray] = binding.copy_outputs_to_cpu()
        except Exception as error:
            if any(words in str(error) for words in OUT_OF_MEMORY):
                raise EngineOutOfMemory(str(error)) from error
            raise
        self._most_bytes = max(self._most_bytes, sum(array.nbytes for array in [*inputs, *found]))
        return found

    def memory_bytes(self) -> int:
        """Of tensors; onnxruntime does not tell what its arena holds."""
        return self._most_bytes

    def close(self) -> None:
        del self._session


def open_engine(manifest: Manifest) -> Engine:
    """Raises `Permanent` without onnxruntime-gpu or a GPU."""
    if _PROVIDER not in ort.get_available_providers():
        raise Permanent(
            "this onnxruntime has no CUDA", remedy="install onnxruntime-gpu instead of onnxruntime"
        )
    return OnnxRuntimeCudaEngine(manifest)
