"""What Slipway's account must be allowed to do in the pods' namespaces, asked of the cluster first.

A right that is missing would show itself half-way through a release, as a sentence about one object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from model_store.errors import Permanent
from serving.platforms.kubernetes.api import GROUPS, ClusterApi

_WRITES = ("get", "list", "create", "patch", "delete")

# By kind, as the Role in docs/kubernetes.md has them.
NEEDED = {
    "Deployment": _WRITES,
    "ReplicaSet": ("list",),
    "Pod": ("list",),
    "PodDisruptionBudget": ("get", "create", "patch", "delete"),
    "HorizontalPodAutoscaler": ("get", "create", "patch", "delete"),
}


# Of controllers that have the cluster say which of them writes.
FOR_LEASES = {"Lease": ("get", "create", "update")}

# Of whoever runs stages of a build there: Airflow's workers and triggerers.
FOR_STAGES = {"Pod": ("get", "list", "create", "delete"), "PodLog": ("get",)}


def require_rights(
    api: ClusterApi, namespaces: Iterable[str], rights: Mapping[str, tuple[str, ...]] = NEEDED
) -> None:
    """Raises `Permanent` naming every right that is missing."""
    missing = [
        f"{namespace}: {', '.join(verbs)} {GROUPS[kind][1]}"
        for namespace in namespaces
        for kind, needed in rights.items()
        if (verbs := [verb for verb in needed if not api.may(verb, kind, namespace)])
    ]
    if missing:
        raise Permanent(
            f"the cluster does not let Slipway's account do what it has to: {'; '.join(missing)}",
            remedy="bind the Role of docs/kubernetes.md to that account in each of these namespaces",
        )


def may_read_events(api: ClusterApi, namespace: str) -> bool:
    """Without them some reasons are less exact, and nothing else is missing."""
    return api.may("list", "Event", namespace)
