"""Engines that TensorRT or TensorRT-RTX built ahead of time, run by onnxruntime.

The file is an ONNX model of one `EPContext` node that holds the engine (`compile.engine_context`). Graphs,
staging and what happens without memory are those of the CUDA engine. An engine runs on the kind of GPU and
the library it was built with and on no other, so that is asked before it is loaded. Sources: onnxruntime's
documentation, "EP Context Design" and "TensorRT Execution Provider"; TensorRT's developer guide, "Engine
Compatibility".
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module

import onnxruntime as ort

from model_store.durable import digest_file
from model_store.engines import nvml
from model_store.engines.base import Engine
from model_store.engines.manifest import Manifest
from model_store.engines.onnxruntime_cuda import GpuSetup, open_on_gpu
from model_store.errors import Permanent

TENSORRT = "TensorrtExecutionProvider"
TENSORRT_RTX = "NvTensorRTRTXExecutionProvider"
_RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
_ERRORS = 3
_REBUILD = "release the version again where pods run, or serve the onnxruntime candidate"


def open_engine(manifest: Manifest, environ: Mapping[str, str] = os.environ) -> Engine:
    """Raises `Permanent` without the library or a GPU, and for an engine that was built for others."""
    if manifest.trusted is None:  # else each session verifies the file that it opens
        expect_whole(manifest)
    setup = _tensorrt() if manifest.platform == "tensorrt" else _tensorrt_rtx()
    expect_built_for(manifest, arch=nvml.architecture(), library=_library_version(manifest.platform))
    # The provider warns at each load that an engine inside the model is slower to load than one beside it.
    ort.set_default_logger_severity(_ERRORS)
    return open_on_gpu(manifest, setup, environ)


def expect_whole(manifest: Manifest) -> None:
    """TensorRT trusts the bytes of an engine: one that is damaged ends the process (a flipped byte, H200)."""
    if digest_file(manifest.file) != manifest.digest:
        raise Permanent(
            f"the engine of {manifest.name} is damaged: {manifest.file.name} is not what was built",
            remedy="fetch the bundle again, or release the version again",
        )


def expect_built_for(manifest: Manifest, *, arch: str, library: str) -> None:
    """Refuse an engine of another GPU (`arch`: "SM90") or another release of the library ("10.15.1").

    What is not known on either side ("") is left to the library itself, which refuses as well.
    """
    built = manifest.toolchain
    archs, version = str(built.get("gpu_arch") or ""), _release(str(built.get("version") or ""))
    wrong = []
    if arch and archs and not _runs_on(archs, arch):
        wrong.append(f"GPU {archs}, this one is {arch}")
    if library and version and version != _release(library):
        wrong.append(f"{manifest.platform} {version}, here is {_release(library)}")
    if wrong:
        raise Permanent(f"the engine of {manifest.name} was built for {' and '.join(wrong)}", remedy=_REBUILD)


def _tensorrt() -> GpuSetup:
    if TENSORRT not in ort.get_available_providers():
        raise Permanent(
            "this onnxruntime has no TensorRT",
            remedy="install onnxruntime-gpu instead of onnxruntime, and requirements-tensorrt.txt",
        )
    with suppress(ImportError):
        import_module("tensorrt_libs")  # loads what pip put where no loader looks
    try:
        _libnvinfer()
    except OSError as error:
        raise Permanent(
            f"TensorRT is not installed: {error}", remedy="install requirements-tensorrt.txt"
        ) from error
    options = {"device_id": "0"}
    recording = {**options, "trt_cuda_graph_enable": "True"}
    return GpuSetup([(TENSORRT, options)], [(TENSORRT, recording)], provider=TENSORRT)


def _tensorrt_rtx() -> GpuSetup:
    """Its provider is a plugin, which tells of the devices that it can use."""
    try:
        plugin = import_module(_RTX_PLUGIN)
    except ImportError as error:
        raise Permanent(
            f"TensorRT-RTX's provider is not installed: {error}",
            remedy="pip install onnxruntime-ep-nv-tensorrt-rtx-cu13, or serve the onnxruntime candidate",
        ) from error
    with suppress(Exception):  # it is registered once in a process
        ort.register_execution_provider_library(TENSORRT_RTX, plugin.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == TENSORRT_RTX][:1]
    if not devices:
        raise Permanent(
            "TensorRT-RTX finds no GPU that it runs on",
            remedy="it takes GeForce and RTX GPUs from Ampere on; serve the onnxruntime candidate elsewhere",
        )
    return GpuSetup([{}], [{"enable_cuda_graph": "1"}], provider=TENSORRT_RTX, devices=devices)


def _libnvinfer() -> ctypes.CDLL:
    return ctypes.CDLL("libnvinfer.so.10")


def _library_version(platform: str) -> str:
    """What the pod has, as "10.15.1"; "" where the library does not say."""
    if platform != "tensorrt":
        return ""
    number = int(_libnvinfer().getInferLibVersion())
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _release(version: str) -> str:
    """Major, minor and patch: builds of one release take each other's engines."""
    return ".".join(version.split(".")[:3])


def _runs_on(built: str, here: str) -> bool:
    """`built`: "SM90", or of an engine for several "SM86+SM89", or from one on "SM80+"."""
    if built.endswith("+"):
        return _number(here) >= _number(built)
    return here in built.split("+")


def _number(arch: str) -> int:
    return int("".join(filter(str.isdecimal, arch)) or 0)
