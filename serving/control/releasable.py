"""What may get pods and traffic: the bundle that this release published, signed, judged, and approved.

Airflow's tasks hand on ids, and who may run tasks may hand on others or mark a task successful that failed.
So the controller asks here before it starts pods, of what only Slipway writes: the release's own record, the
signed manifest, and the audit trail.
"""

from __future__ import annotations

from typing import Any

from model_store.bundle.publishing import signed_manifest
from model_store.errors import Permanent
from serving.control import audit_entries
from serving.control.releases import Release
from serving.control.wiring import Services


class NotReleasable(Permanent):
    """This bundle is none that this release may put before users."""


def require_releasable(services: Services, release: Release, bundle_id: str) -> None:
    """Raises `NotReleasable` with what is wrong, `NotSigned`, and `Permanent` for approvals that lack."""
    audit_entries.require_approvals(services, release, bundle_id)
    if not release.bundles or release.bundles[-1].bundle_id != bundle_id:
        published = release.bundles[-1].bundle_id if release.bundles else "none"
        raise _refusal(release, bundle_id, f"it is not what the release published, which is {published}")
    manifest = signed_manifest(services.store, bundle_id)
    _require_this_version(release, bundle_id, manifest)
    failed = [check["name"] for check in manifest["report"]["checks"] if not check["passed"]]
    if failed:
        raise _refusal(release, bundle_id, f"its gates did not pass it: {', '.join(failed)}")


def _require_this_version(release: Release, bundle_id: str, manifest: dict[str, Any]) -> None:
    model = manifest["model"]
    if (model["name"], int(model["version"])) != (release.model, release.version):
        raise _refusal(release, bundle_id, f"it is {model['name']} v{model['version']}")


def _refusal(release: Release, bundle_id: str, why: str) -> NotReleasable:
    return NotReleasable(
        f"bundle {bundle_id or '(none)'} gets no traffic by {release.id}: {why}",
        remedy="clear the run from its first task; find out who set what its tasks hand on",
    )
