"""From an ONNX artifact to what a runtime loads: one file per compiler, one registry by name."""

from __future__ import annotations

from collections.abc import Callable

from model_store.compile.base import Compiler, CompileSpec, NotCompiled, UnknownCompiler
from model_store.storage.store import Store

__all__ = ["COMPILERS", "CompileSpec", "Compiler", "NotCompiled", "UnknownCompiler", "compiler"]


def _onnxruntime(store: Store) -> Compiler:
    from model_store.compile.onnxruntime import OnnxRuntimeCompiler

    return OnnxRuntimeCompiler(store)


def _tensorrt(store: Store) -> Compiler:
    from model_store.compile.engines import TensorRTCompiler

    return TensorRTCompiler(store)


def _tensorrt_rtx(store: Store) -> Compiler:
    from model_store.compile.engines import TensorRTRTXCompiler

    return TensorRTRTXCompiler(store)


def _python(store: Store) -> Compiler:
    from model_store.compile.base import PythonCompiler

    return PythonCompiler()


COMPILERS: dict[str, Callable[[Store], Compiler]] = {
    "onnxruntime": _onnxruntime,
    "python": _python,
    "tensorrt": _tensorrt,
    "tensorrt_rtx": _tensorrt_rtx,
}


def compiler(name: str, store: Store) -> Compiler:
    """The compiler of this name. Raises `Permanent` (UnknownCompiler) listing what exists."""
    if name not in COMPILERS:
        raise UnknownCompiler(name, known=sorted(COMPILERS))
    return COMPILERS[name](store)
