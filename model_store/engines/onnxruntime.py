"""onnxruntime on the CPU."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from model_store.engines.base import Engine, EngineOutOfMemory
from model_store.engines.errors import RefusedByModel
from model_store.engines.manifest import Manifest
from model_store.engines.signature import TensorSpec
from model_store.errors import Permanent
from model_store.texts import encoded

OUT_OF_MEMORY = ("Failed to allocate memory", "bad allocation", "out of memory", "BFCArena", "bad_alloc")
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
# Operators that fail by nothing but a value, and then not with InvalidArgument: text that is no number, a
# category nobody knows. The same kinds of error from others say that the model or the machine is broken.
_BY_VALUE = re.compile(
    r"while running (Cast node\b.* Status Message: sto\w+\b|OneHotEncoder node\b.* Unknown Category)",
    re.DOTALL,
)


class OnnxRuntimeEngine:
    """One InferenceSession. `threads` compute threads, which sleep (never spin) between batches."""

    platform = "onnxruntime"
    profiles: tuple[int, ...] = ()

    def __init__(self, manifest: Manifest, session: ort.InferenceSession) -> None:
        signature = manifest.signature
        self._session: Any = session
        self._inputs = signature.inputs
        self._outputs = [spec.name for spec in signature.outputs]
        has_bf16 = any(spec.datatype.name == "BF16" for spec in signature.inputs + signature.outputs)
        self._run = self._run_values if has_bf16 else self._run_arrays

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            return self._run(inputs)
        except Exception as error:
            # The shapes were checked, so it is the values: an index past the end of a table, say.
            if isinstance(error, InvalidArgument) or _BY_VALUE.search(str(error)):
                raise RefusedByModel(
                    f"the model refuses this input: {str(error)[:300]}", remedy="check the values"
                ) from error
            if any(words in str(error) for words in OUT_OF_MEMORY):
                raise EngineOutOfMemory(str(error)) from error
            raise

    def staging(self, rows: int) -> Sequence[np.ndarray] | None:
        """None: inputs are read where they are."""
        return None

    def memory_bytes(self) -> int:
        return 0

    def close(self) -> None:
        del self._session

    def _run_arrays(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        feeds = {
            spec.name: array if spec.datatype.size else as_text(spec, array)
            for spec, array in zip(self._inputs, inputs, strict=True)
        }
        found: list[np.ndarray] = self._session.run(self._outputs, feeds)
        return [encoded(array) if array.dtype == object else array for array in found]

    def _run_values(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """numpy has no BF16, so such tensors go in and out as onnxruntime's own values."""
        feeds = {spec.name: _value(spec, array) for spec, array in zip(self._inputs, inputs, strict=True)}
        values = self._session.run_with_ort_values(self._outputs, feeds)
        return [_array(value) for value in values]


def open_engine(manifest: Manifest) -> Engine:
    """Raises `Permanent` when onnxruntime refuses the file, or it is not the model the manifest tells of."""
    try:
        return OnnxRuntimeEngine(manifest, open_session(manifest, ["CPUExecutionProvider"]))
    except Permanent:
        raise
    except Exception as error:
        raise Permanent(
            f"onnxruntime cannot load {manifest.file}: {error}",
            remedy="export the model again; check that its opset is one this onnxruntime knows",
        ) from error


def open_session(
    manifest: Manifest,
    providers: Sequence[Any],
    config: Mapping[str, str] = MappingProxyType({}),
    *,
    devices: Sequence[Any] = (),
    file: Path | None = None,
) -> ort.InferenceSession:
    """A session with the bundle's settings and `config`, checked against the manifest's tensor names.

    With a provider that is a plugin: on `devices` of it, and `providers` is its options. Never with another
    provider than was asked for, which onnxruntime would try by itself. `file`: what `manifest.loading` gave
    whoever opens several sessions of it, so that its bytes are verified once.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = manifest.settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Spinning threads would take the core that reads the next requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in {**manifest.session_config, **config}.items():
        options.add_session_config_entry(key, value)
    if devices:
        options.add_provider_for_devices(list(devices), providers[0])
    asked = {} if devices else {"providers": list(providers)}
    with nullcontext(file) if file else manifest.loading() as path:
        session = ort.InferenceSession(str(path), options, enable_fallback=0, **asked)
    _expect_names(manifest, session)
    return session


def _expect_names(manifest: Manifest, session: ort.InferenceSession) -> None:
    takes = {value.name for value in session.get_inputs()}
    gives = {value.name for value in session.get_outputs()}
    signature = manifest.signature
    if takes != set(signature.positions) or not {spec.name for spec in signature.outputs} <= gives:
        raise Permanent(
            f"{manifest.file} takes {sorted(takes)} and gives {sorted(gives)}, the manifest says otherwise",
            remedy="publish the bundle again",
        )


def as_text(spec: TensorSpec, array: np.ndarray) -> np.ndarray:
    """BYTES as the text onnxruntime takes. Raises `RefusedByModel` on bytes that are not UTF-8."""
    text = np.empty(array.size, dtype=object)
    try:
        text[:] = [item.decode() for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise RefusedByModel(
            f"input {spec.name!r}: onnxruntime takes text only: {error}", remedy="send UTF-8"
        ) from error
    return text.reshape(array.shape)


def _value(spec: TensorSpec, array: np.ndarray) -> Any:
    if spec.datatype.name == "BF16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array if spec.datatype.size else as_text(spec, array))


def _array(value: Any) -> np.ndarray:
    if value.data_type() != "tensor(bfloat16)":
        found: np.ndarray = value.numpy()
        return encoded(found) if found.dtype == object else found
    shape = tuple(value.shape())
    if 0 in shape:
        return np.zeros(shape, np.uint16)
    pointer = ctypes.cast(value.data_ptr(), ctypes.POINTER(ctypes.c_uint16))
    return np.ctypeslib.as_array(pointer, shape).copy()
