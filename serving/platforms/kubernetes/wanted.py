"""What is wanted of the cluster, read from a bundle and the installation's own file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model_store.attestation import Trusted
from model_store.errors import Permanent
from model_store.release_spec.kubernetes import Kubernetes
from model_store.types import Bundle
from serving.platforms.base import DeploymentSpec
from serving.platforms.kubernetes.installation import Installation, merged
from serving.types import DeploymentRef


@dataclass(frozen=True, slots=True)
class DesiredDeployment:
    """A deployment as the spec and the installation want it.

    `asked`: of both together. `serving`: the bundle manifest's section. `manifest_digest`: of that file's
    bytes. `bundle_bytes`: what the bundle takes on disk. `trusted`: the public key of who signed it, for the
    pod to verify with: another key that is trusted later is none of its business, and restarts no pods.
    """

    ref: DeploymentRef
    replicas: int
    namespace: str
    image: str
    asked: Kubernetes
    serving: dict[str, Any]
    manifest_digest: str
    bundle_bytes: int
    trusted: str
    faults: str = ""


def wanted_of(
    ref: DeploymentRef, want: DeploymentSpec, installation: Installation, faults: str, trusted: Trusted
) -> DesiredDeployment:
    """`trusted`: who may have signed the bundle. Raises `Permanent` for what can never run here."""
    content = _manifest_of(want.bundle)
    serving = _serving_of(want.bundle, content)
    is_python = json.loads(content).get("platform") == "python"
    if is_python and not any(Path(want.bundle.path).rglob("wheels/*.whl")):
        raise Permanent(
            "the bundle of a model that is served as it was logged has no wheels, and pods of a cluster reach"
            " no package index",
            remedy="release the version again: bundles have them since",
        )
    asked = merged(installation, _asked(serving))
    if asked.image is None:
        raise Permanent(
            "no image of pods is named",
            remedy="build deploy/pod.Dockerfile and name it in kubernetes.yaml: `defaults: {image: ...}`",
        )
    if installation.bundles is None:
        raise Permanent(
            "where pods of the cluster get their bundles is not said",
            remedy="name object storage in kubernetes.yaml: `bundles: {url: s3://...}`",
        )
    if (serving.get("cache") or {}).get("shared") and installation.redis is None:
        raise Permanent(
            "serving.cache.shared wants a Redis, and none is named for pods of the cluster",
            remedy="name the Secret with its address in kubernetes.yaml: `redis: {name: ..., key: ...}`",
        )
    size = sum(file.stat().st_size for file in want.bundle.path.rglob("*") if file.is_file())
    namespace = installation.namespace(asked)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    signer = trusted.of_signer(str(json.loads(content).get("signature") or "")).written()
    return DesiredDeployment(
        ref, want.replicas, namespace, asked.image, asked, serving, digest, size, signer, faults
    )


def _manifest_of(bundle: Bundle) -> bytes:
    try:
        return (Path(bundle.path) / "manifest.json").read_bytes()
    except OSError as error:
        raise _unreadable(bundle, error) from error


def _serving_of(bundle: Bundle, manifest: bytes) -> dict[str, Any]:
    """The spec's section `serving`, as the bundle was published with it."""
    try:
        return dict(json.loads(manifest).get("serving") or {})
    except (ValueError, AttributeError) as error:
        raise _unreadable(bundle, error) from error


def _unreadable(bundle: Bundle, error: Exception) -> Permanent:
    return Permanent(
        f"{bundle.path} is not a readable bundle: {error!r}",
        remedy="Publish it again: release the version anew.",
    )


def _asked(serving: Mapping[str, Any]) -> Kubernetes:
    """What an older Slipway kept is read by the same rules as a spec. Raises `Permanent`."""
    try:
        return Kubernetes.model_validate_json(json.dumps(serving.get("kubernetes") or {}), strict=True)
    except ValidationError as error:
        raise Permanent(
            f"the bundle's serving.kubernetes is not readable here: {error.errors()[0]['msg']}",
            remedy="release the version again with the present spec",
        ) from error
