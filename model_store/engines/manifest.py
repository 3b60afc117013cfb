"""Reads a bundle directory's manifest.json (schema 1): everything the pod needs to serve it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from model_store.attestation import Trusted, attest, unchanged
from model_store.engines.signature import Signature, tensor_spec
from model_store.errors import Permanent


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The spec's `serving.cache`."""

    max_mb: float = 64.0
    ttl_seconds: float = 3600.0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The spec's `serving.request_log`; `share` of requests, 0 to 1."""

    share: float = 0.01
    max_mb: float = 256.0
    keep_days: float = 7.0


@dataclass(frozen=True, slots=True)
class Settings:
    """The spec's serving section as the pod uses it; sizes in rows, times in milliseconds."""

    max_batch_size: int = 32
    max_queue_delay_ms: float = 2.0
    threads: int = 1
    timeout_ms: float = 1000.0
    max_queue_rows: int = 2048
    # Of one request. 0: what the model computes in time.
    max_rows: int = 0
    # 0: what the batch size and the measured cost of a batch suggest.
    min_concurrency: int = 0
    target_queue_ms: float = 0.0
    # Equal inputs may have different answers: nothing is cached or shared.
    stochastic: bool = False
    cache: CacheSettings | None = None
    request_log: LogSettings | None = None
    fallback: dict[str, Any] | None = None
    # Of a model's own process; 0: any.
    max_memory_mb: float = 0.0
    finite_inputs: bool = True
    finite_outputs: bool = True


@dataclass(frozen=True, slots=True)
class BuiltFile:
    """A build of the model: its file, the digest of its bytes, and what it was built with and for."""

    file: Path
    digest: str
    toolchain: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One bundle. `file` is the model file, `warmup` an npz of real rows or None. `trusted`: by whose keys
    its bytes are verified when they are loaded; None where somebody said that they need not be.
    `toolchain`: what built the file (compiler, version, gpu_arch), as far as it was written down.
    `engines`: the builds for GPUs that the bundle has of what it serves, the served one first; `source`: the
    ONNX file that they were built from. Both only where the platform is a GPU's.
    `gpu_memory_bytes`: what the model took of a GPU at its gate; 0 where none was counted.
    `invocations`: how MLflow's clients ask it (`model_store.export.invocations`), empty in older ones.
    """

    id: str
    name: str
    version: str
    platform: str
    precision: str
    digest: str
    file: Path
    warmup: Path | None
    signature: Signature
    settings: Settings
    session_config: dict[str, str]
    serving: dict[str, Any]
    bundle: Path = Path()
    trusted: Trusted | None = None
    toolchain: Mapping[str, Any] = field(default_factory=dict)
    engines: tuple[BuiltFile, ...] = ()
    source: BuiltFile | None = None
    gpu_memory_bytes: int = 0
    invocations: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def loading(self) -> Iterator[Path]:
        """The model file by a name behind which are the bytes that were signed. Raises `NotAttested`."""
        if self.trusted is None:
            yield self.file
            return
        with unchanged(self.file, self.digest) as path:
            yield path

    def attest(self) -> None:
        """Raises `NotSigned` or `NotAttested` unless all its bytes are those that a trusted key signed."""
        if self.trusted is not None:
            attest(self.bundle, self.trusted)


def read_attested(bundle: Path, trusted: Trusted | None) -> Manifest:
    """`read_manifest` of a bundle whose bytes were verified just now. Raises as `Manifest.attest` besides."""
    if trusted is None:
        return read_manifest(bundle)
    return replace(_parsed(bundle, lambda: attest(bundle, trusted)), trusted=trusted)


def read_manifest(bundle: Path) -> Manifest:
    """Read `<bundle>/manifest.json`. Raises `Permanent` when it is missing, unreadable or incomplete."""
    return _parsed(bundle, lambda: json.loads((bundle / "manifest.json").read_bytes()))


def _parsed(bundle: Path, read: Callable[[], dict[str, Any]]) -> Manifest:
    path = bundle / "manifest.json"
    try:
        return _manifest(bundle, read())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Permanent(
            f"{path} is not a bundle manifest: {type(error).__name__}: {error}",
            remedy="publish the bundle again; a bundle directory is written whole or not at all",
        ) from error


def _manifest(bundle: Path, found: dict[str, Any]) -> Manifest:
    if found["schema"] != 1:
        raise ValueError(f"schema {found['schema']}, this pod reads schema 1")
    engines, source = _builds(bundle, found)
    return Manifest(
        id=found["id"],
        name=found["model"]["name"],
        version=str(found["model"]["version"]),
        platform=found["platform"],
        precision=found.get("precision", "fp32"),
        digest=found["digest"],
        file=_inside(bundle, found["file"]),
        warmup=_inside(bundle, found["warmup"]) if found.get("warmup") else None,
        signature=_signature(found),
        settings=_settings(found.get("serving", {})),
        session_config=dict(found.get("session_config", {})),
        serving=dict(found.get("serving", {})),
        bundle=bundle,
        toolchain=_toolchain(found),
        engines=engines,
        source=source,
        gpu_memory_bytes=int((found.get("evidence") or {}).get("gpu_memory_bytes", 0)),
        invocations=dict(found.get("invocations") or {}),
    )


def _toolchain(found: dict[str, Any]) -> dict[str, Any]:
    artifacts = found.get("artifacts", [])
    return next((dict(one["toolchain"]) for one in artifacts if one["digest"] == found["digest"]), {})


def _builds(bundle: Path, found: dict[str, Any]) -> tuple[tuple[BuiltFile, ...], BuiltFile | None]:
    """The engines of the served platform, and the file that the served one was built from, if it is here."""
    here = [one for one in found.get("artifacts", []) if one.get("path")]
    served = next((one for one in here if one["digest"] == found["digest"]), None)
    if served is None or served["format"] == "onnx":
        return (), None
    same = [one for one in here if one["toolchain"]["compiler"] == found["platform"]]
    same.sort(key=lambda one: one is not served)
    parent = next((one for one in here if one["digest"] == served["parent_digest"]), None)
    return tuple(_built(bundle, one) for one in same), _built(bundle, parent) if parent else None


def _built(bundle: Path, record: dict[str, Any]) -> BuiltFile:
    return BuiltFile(_inside(bundle, record["path"]), record["digest"], dict(record["toolchain"]))


def _inside(bundle: Path, relative: str) -> Path:
    path = (bundle / relative).resolve()
    if not path.is_relative_to(bundle.resolve()):
        raise ValueError(f"{relative!r} points outside the bundle")
    if not path.is_file():
        raise ValueError(f"{relative!r} is missing")
    return path


def _signature(found: dict[str, Any]) -> Signature:
    inputs = tuple(tensor_spec(t["name"], t["datatype"], t["shape"]) for t in found["inputs"])
    outputs = tuple(tensor_spec(t["name"], t["datatype"], t["shape"]) for t in found["outputs"])
    if not inputs or not outputs:
        raise ValueError("a model needs inputs and outputs")
    return Signature.of(inputs, outputs)


def _settings(serving: dict[str, Any]) -> Settings:
    known = {name: serving[name] for name in Settings.__slots__ if serving.get(name) is not None}
    if "cache" in known:
        known["cache"] = CacheSettings(**known["cache"])
    if "request_log" in known:
        known["request_log"] = LogSettings(**known["request_log"])
    if "fallback" in known:
        known["fallback"] = {k: v for k, v in known["fallback"].items() if v is not None}
    return Settings(**known)
