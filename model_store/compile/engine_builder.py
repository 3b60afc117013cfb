"""`python -m model_store.compile.engine_builder REQUEST.json`: builds one engine, in a process of its own.

The request names the bindings (`tensorrt_bindings` or `tensorrt_rtx_bindings`: one API), the ONNX file, where
engine and result go, the largest batch, GPU architectures, and the file of the timing cache. The result is
JSON: `reason`, or timings. With `wrapped`, a path, the engine is also written there as an ONNX model.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class CannotBuild(Exception):  # noqa: N818 - a finding to report, not an error
    """This model cannot become an engine; the text says why."""


def main(request_path: str) -> None:
    """Write the engine and the result file. What cannot be built is a reason, not a traceback."""
    request: Json = json.loads(Path(request_path).read_bytes())
    try:
        result = build(request)
    except CannotBuild as why:
        result = {"reason": str(why)}
    Path(request["result"]).write_text(json.dumps(result))


def build(request: Json) -> Json:
    """Parse, set the batch profile, build, write the engine. Raises CannotBuild."""
    trt = _bindings(request["bindings"])
    log = _collector(trt)
    builder = _builder(trt, log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, log, Path(request["model"]).read_bytes())
    config = builder.create_builder_config()
    profile = _set_batch_profile(builder, config, network, request["max_batch_size"])
    _set_architectures(trt, config, request["gpu_archs"])
    timings = _TimingCache(config, Path(request["timing_cache"]))
    started = time.perf_counter()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise CannotBuild(f"the build failed: {_sentence(log.messages)}")
    Path(request["engine"]).write_bytes(engine)
    timings.keep()
    result = {
        "version": str(trt.__version__),
        "build_seconds": time.perf_counter() - started,
        "batch_profile": profile,
        "warnings": log.messages,
        "gpu_arch": None if hasattr(config, "num_compute_capabilities") else _gpu_arch(),
    }
    if "wrapped" in request:
        _wrap(request, result)
    return result


def _wrap(request: Json, result: Json) -> None:
    from model_store.compile.engine_context import wrapped
    from model_store.types import Toolchain

    built_by = Toolchain(request["compiler"], result["version"], result["gpu_arch"])
    engine, source = Path(request["engine"]), Path(request["model"])
    Path(request["wrapped"]).write_bytes(wrapped(engine.read_bytes(), source, built_by))


class _TimingCache:
    """What the builder measured of this GPU's kernels before (TensorRT developer guide, "The Timing Cache").

    One that cannot be read, or of another GPU, is begun anew. TensorRT-RTX measures nothing and has none.
    """

    def __init__(self, config: Any, path: Path) -> None:
        self._path, self._cache = path, None
        if not hasattr(config, "create_timing_cache"):
            return
        known = path.read_bytes() if path.is_file() else b""
        for content in (known, b""):
            cache = config.create_timing_cache(content)
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                self._cache = cache
                return

    def keep(self) -> None:
        """Whole or not at all: several builds may end at once, and the last one's stays."""
        if self._cache is None:
            return
        written = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        written.write_bytes(self._cache.serialize())
        written.replace(self._path)


def _bindings(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:  # the bindings install without the native libraries
        raise CannotBuild(f"{name} does not load: {error}") from error


def _collector(trt: Any) -> Any:
    class Collector(trt.ILogger):  # type: ignore[misc]
        """Keeps what the library warns of; TensorRT calls it from several threads."""

        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING:
                self.messages.append(message)

    return Collector()


def _builder(trt: Any, log: Any) -> Any:
    try:
        return trt.Builder(log)
    except Exception as error:  # pybind raises TypeError when the native factory returns null
        raise CannotBuild(f"no builder on this machine: {_sentence([*log.messages, str(error)])}") from error


def _parse(trt: Any, network: Any, log: Any, model: bytes) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse(model):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    nodes = [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]
    raise CannotBuild(f"the parser refuses {_sentence(nodes)}")


def _set_batch_profile(builder: Any, config: Any, network: Any, max_batch_size: int) -> list[int]:
    """Batches from 1 to the largest, tuned for the largest. Raises CannotBuild for other free dimensions."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        first, *rest = tuple(tensor.shape)
        if -1 in rest:
            raise CannotBuild(f"input {tensor.name} {tuple(tensor.shape)} is free beyond the batch dimension")
        sizes = (1, max_batch_size, max_batch_size) if first == -1 else (first, first, first)
        profile.set_shape(tensor.name, *((size, *rest) for size in sizes))
    config.add_optimization_profile(profile)
    return [1, max_batch_size]


def _set_architectures(trt: Any, config: Any, names: list[str]) -> None:
    if not names:
        return
    if not hasattr(config, "num_compute_capabilities"):
        raise CannotBuild("this compiler builds for the GPU it runs on and no other")
    known = {name: value for name, value in vars(trt.ComputeCapability).items() if name.startswith("SM")}
    if unknown := [name for name in names if name not in known]:
        raise CannotBuild(f"unknown GPU architecture {unknown[0]}; known: {', '.join(sorted(known))}")
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(known[name], index)


def _gpu_arch() -> str | None:
    """The first GPU's compute capability as "SM90", from the driver; None without one."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return None
    # 75 and 76 are CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR (cuda.h).
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return f"SM{major.value}{minor.value}"


def _sentence(messages: list[str]) -> str:
    return "; ".join(" ".join(message.split()) for message in messages[:3]) or "no reason was given"


if __name__ == "__main__":
    main(sys.argv[1])
