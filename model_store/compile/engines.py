"""TensorRT and TensorRT-RTX: an engine is built in a child process, within a time limit.

The libraries are native and abort on some models; a crash or hang there must not take the caller along. What
the builder measured is kept beside the store, for each release of the library, and spares the next build of a
like model most of its time.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model_store.compile.base import CompileSpec, NotCompiled
from model_store.compile.engine_context import MOST_BYTES, wrapped
from model_store.engines.building import built_apart
from model_store.storage.store import Store
from model_store.types import Artifact, Toolchain

BUILDER = f"{__package__}.engine_builder"


class EngineCompiler:
    """Base of both doors to TensorRT; a subclass says which bindings and what to do without them."""

    name: str
    bindings: str
    distributions: tuple[str, ...]
    remedy: str
    default_arch: str | None

    def __init__(self, store: Store, *, builder: str = BUILDER) -> None:
        self._store = store
        self._builder = builder

    def toolchain(self, spec: CompileSpec) -> Toolchain:
        return Toolchain(self.name, self._installed(), "+".join(spec.gpu_archs) or self.default_arch)

    def _installed(self) -> str:
        """One package brings the bindings for each major release of CUDA: of the one that is here."""
        for distribution in self.distributions:
            with suppress(PackageNotFoundError):
                return version(distribution)
        return "absent"

    def compile(self, source: Artifact, spec: CompileSpec) -> Artifact | NotCompiled:
        if find_spec(self.bindings) is None:
            return NotCompiled(self.name, f"the package {self.bindings} is not installed", self.remedy)
        with self._store.scratch() as folder:
            result = self._build(source, spec, folder)
            if "reason" in result:
                return NotCompiled(self.name, result["reason"], self.remedy)
            return self._keep(source, spec, folder / "model.plan", result)

    def _build(self, source: Artifact, spec: CompileSpec, folder: Path) -> dict[str, Any]:
        request = {
            "bindings": self.bindings,
            "model": str(source.path),
            "engine": str(folder / "model.plan"),
            "result": str(folder / "result.json"),
            "timing_cache": str(self._timing_cache(spec)),
            "max_batch_size": spec.max_batch_size,
            "gpu_archs": list(spec.gpu_archs),
        }
        self._timing_cache(spec).parent.mkdir(exist_ok=True)
        return built_apart(self._builder, request, folder, spec.time_limit_seconds)

    def _timing_cache(self, spec: CompileSpec) -> Path:
        toolchain = self.toolchain(spec)
        return self._store.root / "timing_cache" / f"{toolchain.compiler}-{toolchain.version}.bin"

    def _keep(
        self, source: Artifact, spec: CompileSpec, engine: Path, result: dict[str, Any]
    ) -> Artifact | NotCompiled:
        if (size := engine.stat().st_size) > MOST_BYTES:
            reason = (
                f"the engine has {size >> 20:,} MB, and no ONNX model holds more than {MOST_BYTES >> 20:,}"
            )
            return NotCompiled(self.name, reason, "leave it out of `targets`, or make the model smaller")
        asked = self.toolchain(spec)
        built_by = Toolchain(asked.compiler, result["version"], result["gpu_arch"] or asked.gpu_arch)
        return self._store.put(
            wrapped(engine.read_bytes(), source.path, built_by),
            format=self.name,
            precision=source.precision,
            parent_digest=source.digest,
            toolchain=built_by,
            provenance={
                "build_seconds": result["build_seconds"],
                "batch_profile": result["batch_profile"],
                "warnings": result["warnings"],
            },
        )


class TensorRTCompiler(EngineCompiler):
    """For data-centre GPUs: engines are built on the GPU they will run on. Its libraries are not on PyPI (a
    stub is), so they are an optional requirement.
    """

    name = "tensorrt"
    bindings = "tensorrt_bindings"
    distributions = ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings")
    remedy = "on a machine with a data-centre GPU: pip install -r requirements-tensorrt.txt"
    default_arch = None


class TensorRTRTXCompiler(EngineCompiler):
    """For GeForce and RTX GPUs, built ahead of time on a machine without one. Without architectures named,
    the library builds for Ampere and later; it has no door for SM90 (H100, H200), which the full TensorRT
    serves.
    """

    name = "tensorrt_rtx"
    bindings = "tensorrt_rtx_bindings"
    distributions = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings")
    remedy = "serve the onnxruntime candidate, or change what the reason names in the model's export"
    default_arch = "SM80+"
