"""What objects in the cluster are called, and by which labels we know ours.

A service's name may be longer than Kubernetes takes and hold letters that it does not. So names are made of
what fits and a digest of the whole, labels of what fits or a digest, and annotations say it exactly.
"""

from __future__ import annotations

import hashlib
import re

from serving.platforms.kubernetes.api import Object
from serving.types import DeploymentRef, Slot

MANAGED_BY = "app.kubernetes.io/managed-by"
INSTALLATION = "slipway/installation"
SERVICE, SLOT, BUNDLE, VERSION = "slipway/service", "slipway/slot", "slipway/bundle", "slipway/version"

# On our Deployments: the service's whole name; and a label once pods of it were ready. An annotation would
# make a new generation of it, which the cluster has not heard of for a moment.
EXACT_SERVICE = "slipway/exact-service"
HAS_SERVED = "slipway/has-served"

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
# A pod's name adds 17 characters, and is its host name, which has at most 63.
_LONGEST_READABLE = 24


def object_name(installation: str, ref: DeploymentRef) -> str:
    """`credit-risk-blue-1f2e3d4c`: of one deployment of one installation, and of no other."""
    whole = "\n".join((installation, ref.id, str(ref.version)))
    readable = re.sub(r"[^a-z0-9]+", "-", ref.service.lower())[:_LONGEST_READABLE].strip("-")
    # A name has to begin with a letter where it becomes a host name.
    start = readable if readable[:1].isalpha() else f"m-{readable}".strip("-")
    return f"{start}-{ref.slot}-{hashlib.sha256(whole.encode()).hexdigest()[:10]}"


def label_value(text: str) -> str:
    """The text itself where it may be a label's value, else its beginning and a digest."""
    if _LABEL.fullmatch(text):
        return text
    readable = re.sub(r"[^A-Za-z0-9]+", "-", text)[:40].strip("-")
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:12]}".lstrip("-")


def labels_of(installation: str, ref: DeploymentRef) -> dict[str, str]:
    """Of everything that belongs to the deployment."""
    return {
        MANAGED_BY: "slipway",
        INSTALLATION: installation,
        SERVICE: label_value(ref.service),
        SLOT: ref.slot.value,
        BUNDLE: label_value(ref.bundle_id),
        VERSION: str(ref.version),
    }


def selector(installation: str, service: str | None = None) -> str:
    """Of everything of an installation, or of one service of it."""
    wanted = {MANAGED_BY: "slipway", INSTALLATION: installation}
    if service is not None:
        wanted[SERVICE] = label_value(service)
    return ",".join(f"{key}={value}" for key, value in wanted.items())


def ref_of(deployment: Object) -> DeploymentRef:
    """What one of our Deployments runs. Raises KeyError or ValueError for what is not ours."""
    metadata = deployment["metadata"]
    labels, exact = metadata["labels"], metadata["annotations"]
    return DeploymentRef(exact[EXACT_SERVICE], Slot(labels[SLOT]), exact[BUNDLE], int(labels[VERSION]))
