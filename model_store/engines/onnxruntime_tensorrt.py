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
from contextlib import closing, suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import onnxruntime as ort

from model_store.durable import digest_file
from model_store.engines import nvml, rebuilding
from model_store.engines.base import Engine
from model_store.engines.manifest import BuiltFile, Manifest
from model_store.engines.noise import noise_of, rows_that_differ
from model_store.engines.onnxruntime_cuda import SWITCH, GpuSetup, open_on_gpu
from model_store.errors import Permanent

TENSORRT = "TensorrtExecutionProvider"
TENSORRT_RTX = "NvTensorRTRTXExecutionProvider"
_RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
_ERRORS = 3
_REBUILD = "release the version again where pods run, or serve the onnxruntime candidate"


def open_engine(manifest: Manifest, environ: Mapping[str, str] = os.environ) -> Engine:
    """The bundle's engine for this GPU, or one that is built here and now where it has none.

    Raises `Permanent` without the library or a GPU, and where it has no engine for this GPU and none can be
    built.
    """
    if manifest.trusted is None:  # else each session verifies the file that it opens
        expect_whole(manifest)
    setup = _tensorrt() if manifest.platform == "tensorrt" else _tensorrt_rtx()
    arch, library = nvml.architecture(), _library_version(manifest.platform)
    fitting = engine_for(manifest, arch=arch, library=library)
    if fitting is None:
        fitting = rebuilding.rebuilt(manifest, misfit(manifest, arch, library), environ, expect_as_source)
    if fitting.file != manifest.file and manifest.trusted is None:
        expect_whole(fitting)
    # The provider warns at each load that an engine inside the model is slower to load than one beside it.
    ort.set_default_logger_severity(_ERRORS)
    return open_on_gpu(fitting, setup, environ)


def expect_whole(manifest: Manifest) -> None:
    """TensorRT trusts the bytes of an engine: one that is damaged ends the process (a flipped byte, H200)."""
    if digest_file(manifest.file) != manifest.digest:
        raise Permanent(
            f"the engine of {manifest.name} is damaged: {manifest.file.name} is not what was built",
            remedy="fetch the bundle again, or release the version again",
        )


def engine_for(manifest: Manifest, *, arch: str, library: str) -> Manifest | None:
    """The manifest with that of its engines that runs on this GPU (`arch`: "SM90") with this release of the
    library ("10.15.1"); None if none does.

    What is not known on either side ("") is left to the library itself, which refuses as well.
    """
    for built in _engines(manifest):
        if not _misfit(manifest.platform, built.toolchain, arch, library):
            return replace(manifest, file=built.file, digest=built.digest, toolchain=built.toolchain)
    return None


def misfit(manifest: Manifest, arch: str, library: str) -> str:
    """Why no engine of the bundle runs here, both sides of it, in words."""
    engines = _engines(manifest)
    told = [" and ".join(_misfit(manifest.platform, one.toolchain, arch, library)) for one in engines]
    of = "the engine" if len(told) == 1 else f"each of the {len(told)} engines"
    return f"{of} of {manifest.name} was built for {'; '.join(told)}"


def expect_as_source(manifest: Manifest) -> None:
    """Judge an engine that was built here as it runs: by the rows of the bundle, beside the ONNX file that it
    was built from, which was judged. Raises `Permanent` where it answers otherwise.
    """
    assert manifest.source is not None
    setup = _tensorrt()
    plain = replace(
        manifest, platform="onnxruntime", file=manifest.source.file, digest=manifest.source.digest
    )
    off = {SWITCH: "0"}
    answers = []
    for each, how in ((manifest, setup), (plain, GpuSetup.cuda())):
        with closing(open_on_gpu(each, how, off)) as engine:
            answers.append(_answers(each, engine))
    # Both sides have it.
    noise = 2 * noise_of(manifest.precision, manifest.platform)
    ours, theirs = answers
    if differ := rows_that_differ(theirs, ours, noise):
        raise Permanent(
            f"the engine of {manifest.name} that was built for this GPU answers {differ} of"
            f" {len(next(iter(ours.values())))} rows otherwise than the ONNX file it was built from",
            remedy=_REBUILD,
        )


def _answers(manifest: Manifest, engine: Engine) -> dict[str, np.ndarray]:
    if manifest.warmup is None:
        raise Permanent(f"{manifest.name} has no rows to judge an engine by", remedy=_REBUILD)
    with np.load(manifest.warmup) as kept:
        rows = [np.ascontiguousarray(kept[one.name], one.datatype.dtype) for one in manifest.signature.inputs]
    if manifest.signature.is_batched:
        rows = [array[: manifest.settings.max_batch_size] for array in rows]
    names = [spec.name for spec in manifest.signature.outputs]
    return dict(zip(names, engine.run(rows), strict=True))


def _engines(manifest: Manifest) -> tuple[BuiltFile, ...]:
    return manifest.engines or (BuiltFile(manifest.file, manifest.digest, manifest.toolchain),)


def _misfit(platform: str, built: Mapping[str, Any], arch: str, library: str) -> list[str]:
    archs, version = str(built.get("gpu_arch") or ""), _release(str(built.get("version") or ""))
    wrong = []
    if arch and archs and not _runs_on(archs, arch):
        wrong.append(f"GPU {archs}, this one is {arch}")
    if library and version and version != _release(library):
        wrong.append(f"{platform} {version}, here is {_release(library)}")
    return wrong


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
