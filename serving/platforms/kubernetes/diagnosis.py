"""From what the cluster says of a deployment to its status: the phase, one sentence, a remedy. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from serving.platforms.base import DeploymentPhase, DeploymentStatus
from serving.platforms.kubernetes import names, reasons
from serving.platforms.kubernetes.api import Object
from serving.platforms.kubernetes.deployment import PORT
from serving.platforms.kubernetes.observation import Observed, is_complete, is_ready
from serving.platforms.kubernetes.pod_trouble import pod_trouble
from serving.platforms.kubernetes.reasons import Trouble
from serving.types import Endpoint


def status_of(seen: Observed, beside: Iterable[Object] = ()) -> DeploymentStatus:
    """`FAILED` only where no pod is ready: what serves goes on doing so, whatever keeps others from it.

    `beside`: the service's other Deployments, read where pods are lacking. What is scarce is needed twice as
    long as both stand.
    """
    ready = [pod for pod in seen.pods if is_ready(pod)]
    endpoints = tuple(sorted((Endpoint(pod["status"]["podIP"], PORT) for pod in ready), key=str))
    if is_complete(seen.deployment, seen.pods):
        return DeploymentStatus(DeploymentPhase.READY, endpoints=endpoints)
    trouble = _trouble(seen)
    reason = trouble.reason + _needed_twice(seen.deployment, beside, trouble.reason)
    wanted = seen.deployment["spec"]["replicas"]
    reason = f"{len(ready)} of {wanted} pods are ready: {reason}"
    phase = DeploymentPhase.FAILED if trouble.is_final and not ready else DeploymentPhase.IN_PROGRESS
    return DeploymentStatus(phase, reason, endpoints, trouble.remedy)


def _needed_twice(deployment: Object, beside: Iterable[Object], said: str) -> str:
    """Devices (`nvidia.com/gpu`) that the sentence names and that another version of the service has, too."""
    devices, found = _devices(deployment), ""
    others = [(names.ref_of(each).version, _devices(each)) for each in beside] if devices else []
    for resource, count in devices.items():
        having = {version: theirs.get(resource, 0) for version, theirs in others}
        taken = " and ".join(f"{number} of v{version}" for version, number in having.items() if number)
        if taken and resource in said:
            found += f"; it needs {count} {resource} beside the {taken} while both stand"
    return found


def _devices(deployment: Object) -> dict[str, int]:
    """Of all its pods together. Only whole ones can be asked for, and their names have a domain."""
    limits = deployment["spec"]["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
    replicas = int(deployment["spec"]["replicas"])
    return {name: int(limits[name]) * replicas for name in limits if "/" in name}


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
