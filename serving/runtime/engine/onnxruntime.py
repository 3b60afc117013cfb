"""onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from model_store.errors import Permanent
from serving.runtime.engine.base import Engine, EngineOutOfMemory
from serving.runtime.manifest import Manifest

_OUT_OF_MEMORY = ("Failed to allocate memory", "bad allocation", "out of memory", "BFCArena")


class OnnxRuntimeEngine:
    """One InferenceSession. `threads` compute threads, which sleep (never spin) between batches."""

    platform = "onnxruntime"
    profiles: tuple[int, ...] = ()

    def __init__(self, manifest: Manifest) -> None:
        signature = manifest.signature
        self._session = _session(manifest)
        self._inputs = [(spec.name, spec.datatype.name == "BYTES") for spec in signature.inputs]
        self._outputs = [spec.name for spec in signature.outputs]

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        feeds = {
            name: _as_text(array) if is_bytes else array
            for (name, is_bytes), array in zip(self._inputs, inputs, strict=True)
        }
        try:
            found: list[np.ndarray] = self._session.run(self._outputs, feeds)
        except Exception as error:
            if any(words in str(error) for words in _OUT_OF_MEMORY):
                raise EngineOutOfMemory(str(error)) from error
            raise
        return [_as_bytes(array) if array.dtype == object else array for array in found]

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        del self._session


def open_engine(manifest: Manifest) -> Engine:
    """Raises `Permanent` when onnxruntime refuses the file."""
    try:
        return OnnxRuntimeEngine(manifest)
    except Exception as error:
        raise Permanent(
            f"onnxruntime cannot load {manifest.file}: {error}",
            remedy="export the model again; check that its opset is one this onnxruntime knows",
        ) from error


def _session(manifest: Manifest) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = manifest.settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning threads would take the core that reads the next requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in manifest.session_config.items():
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(str(manifest.file), options, providers=["CPUExecutionProvider"])


def _as_text(array: np.ndarray) -> np.ndarray:
    # onnxruntime's strings are UTF-8 text; surrogateescape carries other bytes through unharmed.
    flat = [item.decode("utf-8", "surrogateescape") for item in array.ravel()]
    return np.array(flat, dtype=object).reshape(array.shape)


def _as_bytes(array: np.ndarray) -> np.ndarray:
    flat = np.empty(array.size, dtype=object)
    flat[:] = [str(item).encode("utf-8", "surrogateescape") for item in array.ravel()]
    return flat.reshape(array.shape)
