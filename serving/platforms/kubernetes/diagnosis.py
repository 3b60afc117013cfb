"""From what the cluster says of a deployment to its status: the phase, one sentence, a remedy. Pure."""

from __future__ import annotations

from serving.platforms.base import DeploymentPhase, DeploymentStatus
from serving.platforms.kubernetes import names, reasons
from serving.platforms.kubernetes.api import Object
from serving.platforms.kubernetes.deployment import PORT
from serving.platforms.kubernetes.observation import Observed, is_complete, is_ready
from serving.platforms.kubernetes.pod_trouble import pod_trouble
from serving.platforms.kubernetes.reasons import Trouble
from serving.types import Endpoint


def status_of(seen: Observed) -> DeploymentStatus:
    """`FAILED` only where no pod is ready: what serves goes on doing so, whatever keeps others from it."""
    ready = [pod for pod in seen.pods if is_ready(pod)]
    endpoints = tuple(sorted((Endpoint(pod["status"]["podIP"], PORT) for pod in ready), key=str))
    if is_complete(seen.deployment, seen.pods):
        return DeploymentStatus(DeploymentPhase.READY, endpoints=endpoints)
    trouble = _trouble(seen)
    wanted = seen.deployment["spec"]["replicas"]
    reason = f"{len(ready)} of {wanted} pods are ready: {trouble.reason}"
    phase = DeploymentPhase.FAILED if trouble.is_final and not ready else DeploymentPhase.IN_PROGRESS
    return DeploymentStatus(phase, reason, endpoints, trouble.remedy)


def has_served(deployment: Object) -> bool:
    """Whether pods of it were ready once: since then its template stays, and a crash is no failed start."""
    return names.HAS_SERVED in (deployment["metadata"].get("labels") or {})


def _trouble(seen: Observed) -> Trouble:
    """What never heals before what may; then that no pod can be made before what becomes of those there are.

    Pods that an earlier template left behind say nothing of the present one.
    """
    newest = seen.replica_set["metadata"]["uid"] if seen.replica_set else ""
    unready = [pod for pod in seen.pods if not is_ready(pod) and _is_of(pod, newest)]
    served = has_served(seen.deployment)
    found = [pod_trouble(pod, seen.events, has_served=served) for pod in unready]
    if refused := _not_created(seen):
        found.insert(0, refused)
    final = [each for each in found if each.is_final]
    return next(iter([*final, *found]), _not_begun(seen))


def _not_begun(seen: Observed) -> Trouble:
    if seen.replica_set is None:
        return Trouble(
            "the cluster has not begun to make them", "wait; if it lasts, look at its kube-controller-manager"
        )
    return Trouble("they are being made", "wait")


def _not_created(seen: Observed) -> Trouble | None:
    """Quotas and admission: the sentence stands on the ReplicaSet, for there is no pod that could have it."""
    conditions = (seen.replica_set or {}).get("status", {}).get("conditions") or ()
    for each in conditions:
        if each["type"] == "ReplicaFailure" and each["status"] == "True":
            return reasons.not_created(each.get("message", ""))
    return None


def _is_of(pod: Object, replica_set_uid: str) -> bool:
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(owner["uid"] == replica_set_uid for owner in owners)
