"""What stands beside a Deployment: its PodDisruptionBudget, and an autoscaler where one is wanted. Pure."""

from __future__ import annotations

from serving.platforms.kubernetes.api import Object
from serving.platforms.kubernetes.wanted import DesiredDeployment

# One budget for one pod would let no node be drained.
_LEAST_FOR_A_BUDGET = 2


# On an autoscaler: the least number of pods that the spec says, where more are held for now.
LEAST = "slipway/least-replicas"


def held_at(autoscaler: Object, replicas: int, wanted: int) -> Object | None:
    """The change by which it keeps at least its `replicas`, and has as many as are `wanted` of it, as far as
    its spec allows; None where it does. It falls by itself as traffic goes to the other version, and would be
    too little for all of it on the way back."""
    least, most = int(autoscaler["spec"]["minReplicas"]), int(autoscaler["spec"]["maxReplicas"])
    held = max(replicas, min(wanted, most))
    if least >= held:
        return None
    annotations = autoscaler["metadata"].get("annotations") or {}
    said = {LEAST: annotations.get(LEAST, str(least))}
    metadata = {"uid": autoscaler["metadata"]["uid"], "annotations": said}
    return {"metadata": metadata, "spec": {"minReplicas": held, "maxReplicas": max(held, most)}}


def let_go(autoscaler: Object) -> Object | None:
    """The change by which it keeps what its spec says again; None where it does."""
    annotations = autoscaler["metadata"].get("annotations") or {}
    if (said := annotations.get(LEAST)) is None:
        return None
    metadata = {"uid": autoscaler["metadata"]["uid"], "annotations": {LEAST: None}}
    return {"metadata": metadata, "spec": {"minReplicas": int(said)}}


def companions(wanted: DesiredDeployment, deployment: Object) -> list[Object]:
    """Owned by the Deployment as the cluster has it: they go when it goes."""
    found = []
    if wanted.replicas >= _LEAST_FOR_A_BUDGET:
        found.append(_budget(deployment))
    if wanted.asked.autoscaling:
        found.append(_autoscaler(wanted, deployment))
    return found


def superfluous(wanted: DesiredDeployment) -> list[str]:
    """Kinds of companions that this deployment has no more."""
    kinds = []
    if wanted.replicas < _LEAST_FOR_A_BUDGET:
        kinds.append("PodDisruptionBudget")
    if not wanted.asked.autoscaling:
        kinds.append("HorizontalPodAutoscaler")
    return kinds


def _budget(deployment: Object) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _owned(deployment),
        "spec": {
            "maxUnavailable": 1,
            "selector": deployment["spec"]["selector"],
            # A pod that serves nobody must not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _autoscaler(wanted: DesiredDeployment, deployment: Object) -> Object:
    asked = wanted.asked.autoscaling
    assert asked is not None
    target = {"type": "Utilization", "averageUtilization": asked.cpu_percent}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _owned(deployment),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": deployment["metadata"]["name"],
            },
            "minReplicas": wanted.replicas,
            "maxReplicas": max(asked.max_replicas, wanted.replicas),
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def _owned(deployment: Object) -> Object:
    metadata = deployment["metadata"]
    owner = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    return {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "labels": metadata["labels"],
        "ownerReferences": [owner],
    }
