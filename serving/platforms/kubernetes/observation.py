"""What the cluster says of a deployment and of everything that belongs to it, at one moment.

Read by lists, a few for a whole namespace whatever the number of services, and kept for a moment so that
whoever asks for all deployments in a row asks the cluster once. Not followed by watches: one that has gone
silent looks like a cluster in which nothing happens (kubernetes-client/python 2462), and a list cannot.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.platforms.kubernetes import names
from serving.platforms.kubernetes.api import ClusterApi, Denied, Object

# Less than the time in which a person or a task asks again.
KEPT_SECONDS = 0.25

# Of pods that are not ready, so many are looked into: the others are alike.
_LOOKED_INTO = 3


@dataclass(frozen=True, slots=True)
class Observed:
    """One Deployment, its current ReplicaSet (None: not made yet), all its pods that are not ending, and,
    where something is missing, the events of those, oldest first."""

    deployment: Object
    replica_set: Object | None
    pods: tuple[Object, ...]
    events: tuple[Object, ...] = ()


@dataclass(frozen=True, slots=True)
class _Listed:
    at: float
    deployments: list[Object]
    replica_sets: list[Object]
    pods: list[Object]


@dataclass(slots=True)
class Observer:
    """`clock` in seconds. `forget` after each write of ours: nobody may see what was before it."""

    api: ClusterApi
    installation: str
    clock: Callable[[], float]
    _kept: dict[str, _Listed] = field(default_factory=dict)
    _reads_events: dict[str, bool] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def deployments(self, namespace: str) -> list[Object]:
        """Of this installation; none that is being deleted."""
        return [each for each in self._listed(namespace).deployments if not _is_ending(each)]

    def observe(self, deployment: Object) -> Observed:
        """What it owns. Labels do not say: what it replaced may still be ending under the same ones."""
        namespace, uid = deployment["metadata"]["namespace"], deployment["metadata"]["uid"]
        listed = self._listed(namespace)
        sets = {each["metadata"]["uid"]: each for each in listed.replica_sets if _owner(each) == uid}
        pods = tuple(each for each in listed.pods if _owner(each) in sets and not _is_ending(each))
        newest = max(sets.values(), key=_revision, default=None)
        if is_complete(deployment, pods):
            return Observed(deployment, newest, pods)
        return Observed(deployment, newest, pods, self._events(namespace, newest, pods))

    def forget(self, namespace: str) -> None:
        with self._lock:
            self._kept.pop(namespace, None)

    def _listed(self, namespace: str) -> _Listed:
        with self._lock:
            kept = self._kept.get(namespace)
            if kept is None or self.clock() - kept.at > KEPT_SECONDS:
                kept = self._kept[namespace] = self._list(namespace)
            return kept

    def _list(self, namespace: str) -> _Listed:
        ours = names.selector(self.installation)
        return _Listed(
            self.clock(),
            self.api.list("Deployment", namespace, labels=ours),
            self.api.list("ReplicaSet", namespace, labels=ours),
            self.api.list("Pod", namespace, labels=ours),
        )

    def _events(
        self, namespace: str, replica_set: Object | None, pods: tuple[Object, ...]
    ) -> tuple[Object, ...]:
        """Of the ReplicaSet, and of some pods that are not ready. They only explain: where they may not be
        read, the objects themselves say less."""
        if not self._reads_events.setdefault(namespace, True):
            return ()
        unready = [pod for pod in pods if not is_ready(pod)][:_LOOKED_INTO]
        found: list[Object] = []
        try:
            for each in [*([replica_set] if replica_set else []), *unready]:
                fields = f"involvedObject.uid={each['metadata']['uid']}"
                found += self.api.list("Event", namespace, fields=fields)
        except Denied:
            self._reads_events[namespace] = False
        return tuple(sorted(found, key=_happened))


def is_ready(pod: Object) -> bool:
    """Whether it may be given traffic: its readiness probe passes, on a node that is there."""
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions") or ()}
    return conditions.get("Ready") == "True" and bool(pod["status"].get("podIP"))


def is_complete(deployment: Object, pods: tuple[Object, ...]) -> bool:
    """Whether the cluster has heard what we want, and as many pods as that are ready."""
    seen = deployment.get("status", {}).get("observedGeneration", 0)
    ready = sum(map(is_ready, pods))
    return bool(seen >= deployment["metadata"]["generation"] and ready >= deployment["spec"]["replicas"] > 0)


def _is_ending(each: Object) -> bool:
    return "deletionTimestamp" in each["metadata"]


def _owner(each: Object) -> str:
    owners = each["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), "")


def _revision(replica_set: Object) -> int:
    annotations = replica_set["metadata"].get("annotations") or {}
    return int(annotations.get("deployment.kubernetes.io/revision", 0))


def _happened(event: Object) -> str:
    """Times are written so that their order is the texts' order."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return next((time for time in times if time), "")
