"""Finds the engine a bundle asks for. Engines are imported only when asked for: CUDA libraries are heavy."""

from __future__ import annotations

from importlib import import_module

from serving.runtime.engine.base import Engine, UnknownEngine
from serving.runtime.manifest import Manifest

ENGINES = {
    "onnxruntime": "serving.runtime.engine.onnxruntime",
}


def open_engine(manifest: Manifest) -> Engine:
    """Load the bundle's model file. Raises `UnknownEngine`, or the engine's own `Permanent`."""
    module = ENGINES.get(manifest.platform)
    if module is None:
        raise UnknownEngine(manifest.platform, known=sorted(ENGINES))
    engine: Engine = import_module(module).open_engine(manifest)
    return engine
