"""What stands beside a Deployment: its PodDisruptionBudget, and an autoscaler where one is wanted. Pure."""

from __future__ import annotations

from serving.platforms.kubernetes.api import Object
from serving.platforms.kubernetes.wanted import Wanted

# One budget for one pod would let no node be drained.
_LEAST_FOR_A_BUDGET = 2


def companions(wanted: Wanted, deployment: Object) -> list[Object]:
    """Owned by the Deployment as the cluster has it: they go when it goes."""
    found = []
    if wanted.replicas >= _LEAST_FOR_A_BUDGET:
        found.append(_budget(deployment))
    if wanted.asked.autoscaling:
        found.append(_autoscaler(wanted, deployment))
    return found


def superfluous(wanted: Wanted) -> list[str]:
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


def _autoscaler(wanted: Wanted, deployment: Object) -> Object:
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
