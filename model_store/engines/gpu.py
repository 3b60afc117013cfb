"""What engines ask onnxruntime of a GPU: host memory that it copies from directly, and who runs what."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnxruntime as ort

from model_store.engines.signature import TensorSpec

log = logging.getLogger("slipway.pod")

# Has a session remember which provider runs which operator (`placement`).
RECORD_PLACEMENT = {"session.record_ep_graph_assignment_info": "1"}


def pinned(shape: Sequence[int], spec: TensorSpec) -> Any:
    """An OrtValue on the host that the GPU copies from without a detour, where onnxruntime finds the GPU.

    In some containers it finds none (microsoft/onnxruntime 26763); then it is ordinary memory, and a copy
    takes the driver's detour.
    """
    info = _host_accessible()
    dtype = spec.datatype.dtype
    if info is None:
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype)
    return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, memory_info=info)


def placement(session: ort.InferenceSession) -> Counter[str]:
    """How many of the model's operators each execution provider runs; empty where it was not recorded."""
    counts: Counter[str] = Counter()
    try:
        for part in session.get_provider_graph_assignment_info():
            counts[part.ep_name] += len(part.get_nodes())
    except Exception:
        return Counter()
    return counts


@lru_cache(maxsize=1)
def _host_accessible() -> Any:
    """Where onnxruntime allocates such memory, or None.

    Its CUDA provider tells of its devices once its library is registered, under a name of our own.
    """
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        if library.is_file():
            ort.register_execution_provider_library("slipway_cuda", str(library))
        devices = [device for device in ort.get_ep_devices() if "cuda" in device.ep_name.lower()]
        return devices[0].memory_info(ort.OrtDeviceMemoryType.HOST_ACCESSIBLE) if devices else None
    except Exception as error:
        log.info("no pinned memory from onnxruntime: %s", str(error).partition("\n")[0][:300])
        return None
