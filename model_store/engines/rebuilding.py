"""An engine for the GPU that is here, where the bundle has one for others only.

The builder runs in a process of its own, one at a time on a machine; the pod is not ready meanwhile, so a
release waits and the version before it serves. What was built is judged and kept, so that the next pod of
this kind on this machine takes it: in the folder that `SLIPWAY_ENGINES` names, or one of this user's in the
system's temporary folder.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from model_store.durable import digest_file, write_file
from model_store.engines import nvml
from model_store.engines.building import built_apart
from model_store.engines.manifest import Manifest
from model_store.errors import Permanent
from model_store.installation import name_here
from model_store.locks import locked

log = logging.getLogger("slipway.pod")

FOLDER = "SLIPWAY_ENGINES"
# Of environ: 0 refuses instead.
SWITCH = "SLIPWAY_REBUILD_ENGINES"
_BUILDER = name_here("model_store.compile.engine_builder")
_BINDINGS = "tensorrt_bindings"
_SECONDS = 900
_REMEDY = "release the version again where such pods run, or serve the onnxruntime candidate"


def rebuilt(
    manifest: Manifest,
    why: str,
    environ: Mapping[str, str],
    judge: Callable[[Manifest], None],
    *,
    builder: str = _BUILDER,
) -> Manifest:
    """The manifest with an engine that was built from its `source` for this GPU, now or before.

    `why`: what the bundle's engines were built for, and what is here. `judge` raises `Permanent` for one that
    does not answer as it should. Raises `Permanent` where none can be built.
    """
    if manifest.source is None or manifest.platform != "tensorrt":
        raise Permanent(why, remedy=_REMEDY)
    if environ.get(SWITCH) == "0":
        raise Permanent(f"{why}; {SWITCH}=0 says not to build one here", remedy=_REMEDY)
    folder = _folder(environ)
    kept = folder / f"{manifest.source.digest.removeprefix('sha256:')[:24]}-{nvml.architecture()}"
    with locked(folder / "lock"):
        if (found := _read(kept, manifest)) is not None:
            log.info("%s; the one that was built here before is taken", why)
            return found
        log.warning("%s; one for this GPU is being built from %s", why, manifest.source.file.name)
        began = time.monotonic()
        made = _build(manifest, manifest.source.file, kept, why, builder)
        judge(made)
        _keep(kept, made)
        log.warning("an engine of %s was built in %.0f s", manifest.name, time.monotonic() - began)
        return made


def _folder(environ: Mapping[str, str]) -> Path:
    """Nobody else's: TensorRT trusts the bytes of an engine."""
    usual = Path(tempfile.gettempdir()) / f"slipway-engines-{os.getuid()}"
    folder = Path(environ.get(FOLDER) or usual)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise Permanent(
            f"others than this user may write into {folder}, where engines are kept",
            remedy=f"chown and chmod 700 it, or name another in {FOLDER}",
        )
    return folder


def _build(manifest: Manifest, source: Path, kept: Path, why: str, builder: str) -> Manifest:
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        folder = Path(scratch)
        request = {
            "bindings": _BINDINGS,
            "compiler": manifest.platform,
            "model": str(source),
            "engine": str(folder / "model.plan"),
            "wrapped": str(folder / "model.onnx"),
            "result": str(folder / "result.json"),
            "timing_cache": str(kept.parent / f"timing-{nvml.architecture()}.bin"),
            "max_batch_size": manifest.settings.max_batch_size,
            "gpu_archs": [],
        }
        result = built_apart(builder, request, folder, _SECONDS)
        if "reason" in result:
            raise Permanent(f"{why}; none can be built here: {result['reason']}", remedy=_REMEDY)
        toolchain = {
            "compiler": manifest.platform,
            "version": result["version"],
            "gpu_arch": result["gpu_arch"],
        }
        engine = kept.with_suffix(".onnx")
        (folder / "model.onnx").replace(engine)
    return replace(manifest, file=engine, digest=digest_file(engine), toolchain=toolchain)


def _keep(kept: Path, made: Manifest) -> None:
    """Last, so that what was not judged is not taken."""
    said = {"digest": made.digest, "toolchain": dict(made.toolchain), "rows": made.settings.max_batch_size}
    write_file(kept.with_suffix(".json"), json.dumps(said).encode())


def _read(kept: Path, manifest: Manifest) -> Manifest | None:
    """None where there is none, of another release of the library, for smaller batches, or damaged."""
    try:
        said = json.loads(kept.with_suffix(".json").read_bytes())
        engine = kept.with_suffix(".onnx")
        is_its = said["rows"] >= manifest.settings.max_batch_size
        if not is_its or said["toolchain"]["version"] != _version() or digest_file(engine) != said["digest"]:
            return None
        return replace(manifest, file=engine, digest=said["digest"], toolchain=said["toolchain"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _version() -> str:
    """Of the library that would build."""
    from importlib import import_module

    try:
        return str(import_module(_BINDINGS).__version__)
    except ImportError:
        return ""
