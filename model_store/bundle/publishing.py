"""A bundle: what a pod serves, as a Triton model repository with a manifest that vouches for every byte.

    <id>/manifest.json
    <id>/warmup.npz                   a few real rows
    <id>/<model>/config.pbtxt
    <id>/<model>/1/model.onnx
    <id>/<model>/1/serve.json         or this, beside `model` and requirements.lock, of one served as it is
    <id>/engines/<precision>-<compiler>-<GPU>.onnx    built ahead of time, for runtimes that want them
    <id>/engines/source.onnx          what the served engine was built from, for pods on another kind of GPU

See docs/bundles.md for the manifest, field by field.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from model_store.archives import unpack
from model_store.attestation import MANIFEST, strange_files
from model_store.bundle.triton import model_config
from model_store.durable import canonical_json, digest_bytes, digest_file
from model_store.engines.python import SERVE_FILE
from model_store.errors import Permanent
from model_store.gates.signature import VersionSignature
from model_store.records import artifact_record, read_report, read_tensors, report_record, tensor_records
from model_store.signing import Keyring
from model_store.storage.base import Corrupt, Missing
from model_store.storage.fetch import SCHEMA, read_manifest
from model_store.storage.store import Store
from model_store.types import Artifact, Bundle, GateReport, ModelRef, TensorSpec, Toolchain

# Of an artifact that is a folder.
ARCHIVE = "mlflow"
WARMUP_ROWS = 32
SOURCE_FILE = "engines/source.onnx"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BundleContents:
    """Everything that goes into a bundle.

    `served` is the model file; `engines` are further builds of the same candidate; `ancestors` the artifacts
    they came from, listed but not copied. `warmup`: rows [n, ...] by input name. `serving`: the spec's
    section plus what the pod needs besides. `invocations`: how MLflow's clients ask it, where that is known.
    `evidence` and `lineage`: told, never part of the identity.
    """

    model: ModelRef
    served: Artifact
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    serving: Mapping[str, Any]
    session_config: Mapping[str, str]
    warmup: Mapping[str, np.ndarray[Any, Any]]
    report: GateReport
    engines: tuple[Artifact, ...] = ()
    ancestors: tuple[Artifact, ...] = ()
    lineage: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    invocations: Mapping[str, Any] = field(default_factory=dict)


def publish(store: Store, contents: BundleContents) -> Bundle:
    """Write the bundle, or find that it is there already. Identical contents have an identical id."""
    warmup = warmup_file(contents.warmup)
    config = model_config(contents.model.name, contents.inputs, contents.outputs, contents.serving).encode()
    bundle_id = identity(contents, config, warmup)
    keys = store.keyring()
    path = store.publish(
        bundle_id,
        lambda folder: _write(folder, contents, bundle_id, config, warmup, keys),
        replacing=_is_untrusted(store, bundle_id, keys),
    )
    return load_bundle(path)


def open_bundle(store: Store, bundle_id: str) -> Bundle:
    """The bundle of this id, every file verified and the manifest's signature as well: what may be deployed.

    Raises `Permanent`: NotSigned when no key of this installation signed it, else as `load_bundle`; Corrupt
    also for another bundle under this name.
    """
    bundle = load_bundle(store.bundle(bundle_id))
    signed_manifest(store, bundle_id)
    return bundle


def open_signature(store: Store, bundle_id: str) -> VersionSignature:
    """What the bundle's model takes and answers, by its signed manifest. Its files are not read, so this is
    quick however large the model is. Raises `Permanent` as `open_bundle` does of a manifest.
    """
    manifest = signed_manifest(store, bundle_id)
    inputs, outputs = (read_tensors(manifest[role]) for role in ("inputs", "outputs"))
    return VersionSignature(int(manifest["model"]["version"]), inputs, outputs)


def sign_again(store: Store, bundle_id: str, *, vouched_for: bool = False) -> bool:
    """Sign what a trusted key signed with the newest one; False where it is the newest's already.

    `vouched_for`: a person says that these bytes are theirs, whoever signed them. Every file is verified
    first. Raises `Permanent` as `open_bundle`.
    """
    path, keys = store.bundle(bundle_id), store.keyring()
    load_bundle(path)
    manifest = _read_manifest(path)
    if manifest["id"] != bundle_id:
        raise _another(path, manifest["id"])
    if not vouched_for:
        keys.require(manifest, path)
    signature = keys.sign(manifest)
    if manifest.get("signature") == signature:
        return False
    store.publish(
        bundle_id, partial(_signed_copy, path, {**manifest, "signature": signature}), replacing=True
    )
    return True


def _signed_copy(path: Path, manifest: Json, folder: Path) -> None:
    shutil.copytree(path, folder, dirs_exist_ok=True)
    _write_manifest(folder, manifest)


def signed_manifest(store: Store, bundle_id: str) -> Json:
    """What was signed of this bundle; its files are not read. Raises `Permanent` as `open_bundle`."""
    path = store.bundle_path(bundle_id)
    manifest = read_manifest(store.manifest(bundle_id), f"{path}/{MANIFEST}")
    store.trusted().require(manifest, path)
    if manifest["id"] != bundle_id:
        raise _another(path, manifest["id"])
    return manifest


def _another(path: Path, found: str) -> Corrupt:
    return Corrupt(
        f"{path} holds the bundle {found}",
        remedy=f"remove {path} and release the version again; check who writes there",
    )


def _is_untrusted(store: Store, bundle_id: str, keys: Keyring) -> bool:
    """What an older Slipway, a key that is gone, or somebody else left under this id is written anew."""
    path = store.bundle_path(bundle_id)
    try:
        keys.require(read_manifest(store.manifest(bundle_id), f"{path}/{MANIFEST}"), path)
    except Missing:
        return False
    except Permanent:
        return True
    return False


def identity(contents: BundleContents, config: bytes, warmup: bytes) -> str:
    """24 hex digits of what decides how the bundle behaves; measured times and reports are left out.

    An engine counts by what it was built from and with: its bytes differ from build to build.
    """
    parts = {
        "schema": SCHEMA,
        "model": asdict(contents.model),
        "served": contents.served.digest,
        "config": digest_bytes(config),
        "warmup": digest_bytes(warmup),
        "serving": dict(contents.serving),
        "session_config": dict(contents.session_config),
        "engines": sorted(
            [engine.parent_digest, *asdict(engine.toolchain).values()] for engine in contents.engines
        ),
    }
    if contents.invocations:
        parts["invocations"] = dict(contents.invocations)
    return digest_bytes(canonical_json(parts)).removeprefix("sha256:")[:24]


def warmup_file(rows: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """The rows as .npz: the same bytes for the same rows, and text as numpy's own type, without pickle."""
    buffer = io.BytesIO()
    plain = {name: _plain(array[:WARMUP_ROWS]) for name, array in sorted(rows.items())}
    np.savez(buffer, allow_pickle=False, **plain)
    return buffer.getvalue()


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(str) if array.dtype == object else array


def _write(
    folder: Path, contents: BundleContents, bundle_id: str, config: bytes, warmup: bytes, keys: Keyring
) -> None:
    files = _lay_out(folder, contents, config, warmup)
    digests = {relative: digest_file(folder / relative) for relative in sorted(files)}
    manifest = json.loads(json.dumps(_manifest(contents, bundle_id, digests), allow_nan=False))
    manifest["signature"] = keys.sign(manifest)
    _write_manifest(folder, manifest)


def _write_manifest(folder: Path, manifest: Json) -> None:
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n")


def _lay_out(folder: Path, contents: BundleContents, config: bytes, warmup: bytes) -> list[str]:
    """Write every file but the manifest; returns their paths inside the bundle."""
    served = served_file(contents)
    written = {f"{contents.model.name}/config.pbtxt": config, "warmup.npz": warmup}
    copied = {engine_file(e): e.path for e in contents.engines}
    if onnx := source_of(contents):
        copied[SOURCE_FILE] = onnx.path
    unpacked: list[str] = []
    if contents.served.format == ARCHIVE:
        within = str(Path(served).parent)
        unpacked = [f"{within}/{path}" for path in unpack(contents.served.path, folder / within)]
    else:
        copied[served] = contents.served.path
    for relative in (*written, *copied):
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
    for relative, content in written.items():
        (folder / relative).write_bytes(content)
    for relative, source in copied.items():
        shutil.copyfile(source, folder / relative)
    return [*written, *copied, *unpacked]


def served_file(contents: BundleContents) -> str:
    """The served model's path in the bundle: Triton's version directory is always 1, a bundle has one. Of an
    archive it is unpacked there, and this is what tells how to serve it.
    """
    name = SERVE_FILE if contents.served.format == ARCHIVE else contents.served.path.name
    return f"{contents.model.name}/1/{name}"


def engine_file(engine: Artifact) -> str:
    """An ahead-of-time engine's path in the bundle, another for each kind of GPU."""
    named = [engine.precision, engine.toolchain.compiler, engine.toolchain.gpu_arch]
    return f"engines/{'-'.join(filter(None, named))}.onnx"


def source_of(contents: BundleContents) -> Artifact | None:
    """The ONNX file that the served engine was built from: a pod on another kind of GPU builds its own."""
    if contents.served.toolchain.compiler != "tensorrt":
        return None
    parent = contents.served.parent_digest
    return next((one for one in contents.ancestors if one.digest == parent), None)


def _manifest(contents: BundleContents, bundle_id: str, files: Mapping[str, str]) -> Json:
    served = served_file(contents)
    paths = {contents.served.digest: served, **{e.digest: engine_file(e) for e in contents.engines}}
    if source := source_of(contents):
        paths[source.digest] = SOURCE_FILE
    return {
        "schema": SCHEMA,
        "id": bundle_id,
        "model": asdict(contents.model),
        "platform": contents.served.toolchain.compiler,
        "precision": contents.served.precision,
        "file": served,
        "digest": contents.served.digest,
        "inputs": tensor_records(contents.inputs),
        "outputs": tensor_records(contents.outputs),
        "serving": dict(contents.serving),
        "invocations": dict(contents.invocations),
        "warmup": "warmup.npz",
        "session_config": dict(contents.session_config),
        "artifacts": [
            {**artifact_record(artifact), "path": paths.get(artifact.digest)}
            for artifact in _distinct(contents.served, *contents.engines, *contents.ancestors)
        ],
        "report": report_record(contents.report),
        "lineage": dict(contents.lineage),
        "evidence": dict(contents.evidence),
        "files": dict(files),
    }


def _distinct(*artifacts: Artifact) -> Sequence[Artifact]:
    return list({artifact.digest: artifact for artifact in reversed(artifacts)}.values())[::-1]


def load_bundle(path: Path) -> Bundle:
    """The bundle in this directory, every file verified against the manifest, whoever wrote that.

    Raises `Permanent`: Missing without a manifest or a listed file, Corrupt for changed or unlisted files.
    """
    manifest = _read_manifest(path)
    _verify(path, manifest["files"])
    return Bundle(
        id=manifest["id"],
        model=ModelRef(**manifest["model"]),
        artifacts=tuple(_artifact(path, record) for record in manifest["artifacts"] if record["path"]),
        report=read_report(manifest["report"]),
        path=path,
        signature=manifest.get("signature", ""),
    )


def serving_model(bundle: Bundle) -> tuple[Path, dict[str, str]]:
    """The file the pod serves, and the session entries it needs."""
    manifest = _read_manifest(bundle.path)
    return bundle.path / manifest["file"], dict(manifest["session_config"])


def _read_manifest(path: Path) -> Json:
    try:
        content = (path / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise Missing(f"{path} has no {MANIFEST}", remedy="publish the bundle again") from error
    return read_manifest(content, f"{path}/{MANIFEST}")


def _verify(path: Path, files: Mapping[str, str]) -> None:
    strange = strange_files(path, files)
    if missing := [name for name in strange if not (path / name).exists()]:
        raise Missing(f"{path} lacks {', '.join(missing)}", remedy="publish the bundle again")
    if strange:
        raise Corrupt(
            f"{path}: {', '.join(strange)} is not what the manifest says",
            remedy=f"remove {path} and publish the bundle again; check who writes there",
        )


def _artifact(bundle: Path, record: Json) -> Artifact:
    known = {name: value for name, value in record.items() if name not in ("path", "toolchain")}
    return Artifact(path=bundle / record["path"], toolchain=Toolchain(**record["toolchain"]), **known)
