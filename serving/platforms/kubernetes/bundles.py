"""How a pod gets its bundle: fetched from object storage before it starts, or found in a folder. Pure."""

from __future__ import annotations

from serving.platforms.kubernetes.api import Object
from serving.platforms.kubernetes.installation import BundleLocation, Installation
from serving.platforms.kubernetes.wanted import DesiredDeployment

FETCHING = "fetch-bundle"
FOLDER = "/bundles"
_CACHE = "/cache"


def fetching(wanted: DesiredDeployment, installation: Installation, confined: Object) -> list[Object]:
    """The container that fetches the bundle and verifies every file; none where it lies there already."""
    bundles = _bundles(installation)
    if bundles.url is None:
        return []
    mounts = [
        {"name": "bundle", "mountPath": FOLDER},
        {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - a folder of the pod's own
        *([{"name": "cache", "mountPath": _CACHE}] if installation.bundle_cache else []),
    ]
    container: Object = {
        "name": FETCHING,
        "image": wanted.image,
        "imagePullPolicy": wanted.asked.image_pull_policy,
        # The image's own (deploy/pod.Dockerfile): what modules are called in it is its business.
        "command": ["fetch-bundle"],
        "args": _arguments(wanted, bundles.url, installation),
        "envFrom": [{"secretRef": {"name": bundles.secret}}] if bundles.secret else None,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": confined,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    return [{key: value for key, value in container.items() if value is not None}]


def bundle_volumes(installation: Installation) -> list[Object]:
    """Where the pod finds its bundle, and where pods of one node keep what they fetched."""
    bundles, cache = _bundles(installation), installation.bundle_cache
    if bundles.url is None:
        return [_kept("bundle", bundles.host_path, bundles.claim, read_only=True)]
    found: list[Object] = [{"name": "bundle", "emptyDir": {}}]
    if cache:
        found.append(_kept("cache", cache.host_path, cache.claim, read_only=False))
    return found


def _arguments(wanted: DesiredDeployment, url: str, installation: Installation) -> list[str]:
    """With the manifest's digest: what lies in storage under this id has to be what was released."""
    bundle = wanted.ref.bundle_id
    return [
        *(f"{url.rstrip('/')}/bundles/{bundle}", "--into", f"{FOLDER}/{bundle}"),
        *("--digest", wanted.manifest_digest),
        *(("--cache", _CACHE) if installation.bundle_cache else ()),
    ]


def _kept(name: str, host_path: str | None, claim: str | None, *, read_only: bool) -> Object:
    if claim:
        return {"name": name, "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}}
    return {"name": name, "hostPath": {"path": host_path, "type": "Directory"}}


def _bundles(installation: Installation) -> BundleLocation:
    assert installation.bundles is not None, "`wanted_of` refuses that"
    return installation.bundles
