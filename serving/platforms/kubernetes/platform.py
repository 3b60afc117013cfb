"""Pods as Deployments of a cluster: one Deployment for each version in a slot."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from model_store.errors import SlipwayError
from model_store.storage.place import trusted_in
from serving.home import Home
from serving.platforms.base import DeploymentPhase, DeploymentSpec, DeploymentStatus
from serving.platforms.kubernetes import diagnosis, following, names
from serving.platforms.kubernetes.api import ClusterApi, Object
from serving.platforms.kubernetes.companions import companions, held_at, let_go, superfluous
from serving.platforms.kubernetes.deployment import deployment
from serving.platforms.kubernetes.installation import Installation, read_installation
from serving.platforms.kubernetes.observation import Observer, is_complete
from serving.platforms.kubernetes.rights import require_rights
from serving.platforms.kubernetes.wanted import DesiredDeployment, wanted_of
from serving.types import DeploymentRef

log = logging.getLogger(__name__)

# Sooner than an autoscaler takes pods away, which is after five minutes unless somebody said otherwise.
HELD_EVERY_SECONDS = 10.0


class KubernetesPlatform:
    """`Platform` in the namespaces of a cluster. Nothing is read or asked before the first call.

    The cluster alone remembers what stands: any number of controllers and tasks may use it at once.
    """

    def __init__(self, home: Home, environ: Mapping[str, str] = os.environ) -> None:
        self._home, self._environ = home, environ
        self._opened: _Opened | None = None
        self._lock = threading.Lock()

    def apply(self, ref: DeploymentRef, want: DeploymentSpec) -> None:
        cluster = self._cluster()
        faults = self._environ.get("SLIPWAY_FAULTS", "")
        trusted = trusted_in(self._home.store, self._environ)
        wanted = wanted_of(ref, want, cluster.installation, faults, trusted)
        others = [each for each in cluster.standing(ref.service) if _is_in_its_way(each, wanted)]
        if others:
            cluster.judge(wanted)
        for other in others:
            cluster.delete(other)
        cluster.have(wanted)
        cluster.hold(ref.service)

    def status(self, ref: DeploymentRef) -> DeploymentStatus:
        """Notes on a Deployment that it has served: from then on its template stays as it is."""
        cluster = self._cluster()
        found = cluster.find(ref)
        if found is None:
            return DeploymentStatus(DeploymentPhase.NOT_FOUND, f"the cluster has no Deployment of {ref.id}")
        seen = cluster.observer.observe(found)
        if is_complete(seen.deployment, seen.pods) and not diagnosis.has_served(found):
            cluster.freeze(found)
        cluster.keep_held(ref.service)
        # Looked for only where something is lacking: it goes through all that stand in the cluster.
        beside = (each for each in cluster.standing(ref.service) if names.ref_of(each) != ref)
        return diagnosis.status_of(seen, beside)

    def retire(self, ref: DeploymentRef) -> None:
        cluster = self._cluster()
        if found := cluster.find(ref):
            cluster.delete(found)
        cluster.let_go(ref.service)

    def deployments(self, service: str | None = None) -> list[DeploymentRef]:
        found = [names.ref_of(each) for each in self._cluster().standing(service)]
        return sorted(found, key=lambda ref: (ref.service, ref.slot))

    def follow(self, changed: Callable[[str], None], ending: threading.Event) -> None:
        """As `serving.platforms.base.Followed` says: a thread for each namespace."""
        cluster = self._cluster()
        for namespace in cluster.installation.namespaces:
            said = (namespace, changed, ending)
            threading.Thread(target=cluster.follow, args=said, daemon=True, name=f"pods-{namespace}").start()

    def _cluster(self) -> _Opened:
        with self._lock:
            if self._opened is None:
                installation = read_installation(self._home, self._environ)
                api = ClusterApi(installation)
                require_rights(api, installation.namespaces)
                self._opened = _Opened(installation, api)
            return self._opened


class _Opened:
    """The cluster, once it is known and lets us."""

    def __init__(self, installation: Installation, api: ClusterApi) -> None:
        self.installation, self._api = installation, api
        self.observer = Observer(api, installation.name, time.monotonic)
        # When autoscalers of a service were looked at last, by uptime.
        self._held_at: dict[str, float] = {}

    def standing(self, service: str | None) -> Iterator[Object]:
        """Our Deployments, of one service or of all."""
        for namespace in self.installation.namespaces:
            for each in self.observer.deployments(namespace):
                if service is None or names.ref_of(each).service == service:
                    yield each

    def follow(self, namespace: str, changed: Callable[[str], None], ending: threading.Event) -> None:
        def heard(pod: Object) -> None:
            self.observer.forget(namespace)
            label = pod["metadata"]["labels"][names.SERVICE]
            standing = (names.ref_of(each).service for each in self.observer.deployments(namespace))
            for service in {each for each in standing if names.label_value(each) == label}:
                changed(service)

        following.follow(self._api, namespace, self.installation.name, heard, ending)

    def find(self, ref: DeploymentRef) -> Object | None:
        return next((each for each in self.standing(ref.service) if names.ref_of(each) == ref), None)

    def have(self, wanted: DesiredDeployment) -> None:
        """The Deployment and what stands beside it. Of one that has served, the number of pods at most."""
        before = self.find(wanted.ref)
        if before is not None and diagnosis.has_served(before):
            self._scale(before, wanted)
            after = before
        else:
            replicas = self._first_replicas(wanted)
            after = self._api.apply(deployment(wanted, self.installation, replicas=replicas))
        for each in companions(wanted, after):
            self._api.apply(each)
        for kind in superfluous(wanted):
            self._remove_companion(kind, after)
        self.observer.forget(wanted.namespace)

    def hold(self, service: str) -> None:
        """While two versions stand, each keeps the pods that it has, and gets as many as the other one: all
        the traffic may come to either."""
        standing = list(self.standing(service))
        self._held_at[service] = time.monotonic()
        if len(standing) < 2:
            return
        most = max(int(each["spec"]["replicas"]) for each in standing)
        for each in standing:
            autoscaler = self._autoscaler_of(each)
            if autoscaler and (change := held_at(autoscaler, int(each["spec"]["replicas"]), most)):
                self._change(autoscaler, change)

    def keep_held(self, service: str) -> None:
        """Again while it lasts: autoscalers raise what they see traffic of. They take away after minutes."""
        if time.monotonic() - self._held_at.get(service, float("-inf")) < HELD_EVERY_SECONDS:
            return
        try:
            self.hold(service)
        except SlipwayError as problem:
            log.warning("%s: its autoscalers could not be looked at: %s", service, problem.problem)

    def let_go(self, service: str) -> None:
        """One that is alone has as many as its own traffic needs."""
        standing = list(self.standing(service))
        autoscaler = self._autoscaler_of(standing[0]) if len(standing) == 1 else None
        if autoscaler and (change := let_go(autoscaler)):
            self._change(autoscaler, change)

    def _autoscaler_of(self, standing: Object) -> Object | None:
        """Ours; what somebody put there beside is theirs to say."""
        metadata = standing["metadata"]
        found = self._api.get("HorizontalPodAutoscaler", metadata["namespace"], metadata["name"])
        ours = found and (found["metadata"].get("labels") or {}).get(names.MANAGED_BY) == "slipway"
        return found if ours else None

    def _change(self, autoscaler: Object, change: Object) -> None:
        metadata = autoscaler["metadata"]
        self._api.merge("HorizontalPodAutoscaler", metadata["namespace"], metadata["name"], change)

    def judge(self, wanted: DesiredDeployment) -> None:
        """Raises `Denied` for what the cluster would refuse, while all is as it was."""
        self._api.apply(deployment(wanted, self.installation, replicas=wanted.replicas), dry_run=True)

    def delete(self, standing: Object) -> None:
        metadata = standing["metadata"]
        self._api.delete("Deployment", metadata["namespace"], metadata["name"], uid=metadata["uid"])
        self.observer.forget(metadata["namespace"])

    def freeze(self, standing: Object) -> None:
        """With a precondition on nothing else: whoever is second writes another time, and that is all."""
        metadata = standing["metadata"]
        change = {"metadata": {"uid": metadata["uid"], "labels": {names.HAS_SERVED: "true"}}}
        self._api.merge("Deployment", metadata["namespace"], metadata["name"], change)
        self.observer.forget(metadata["namespace"])

    def _scale(self, standing: Object, wanted: DesiredDeployment) -> None:
        """The number is ours to say only where no autoscaler says it."""
        metadata = standing["metadata"]
        if wanted.asked.autoscaling or standing["spec"]["replicas"] == wanted.replicas:
            return
        change = {"metadata": {"uid": metadata["uid"]}, "spec": {"replicas": wanted.replicas}}
        self._api.merge("Deployment", metadata["namespace"], metadata["name"], change)

    def _first_replicas(self, wanted: DesiredDeployment) -> int:
        """Of what is autoscaled: as many pods as any of its service has now, for the same traffic."""
        if not wanted.asked.autoscaling:
            return wanted.replicas
        live = [int(each["spec"]["replicas"]) for each in self.standing(wanted.ref.service)]
        return min(max([wanted.replicas, *live]), wanted.asked.autoscaling.max_replicas)

    def _remove_companion(self, kind: str, beside: Object) -> None:
        metadata = beside["metadata"]
        found = self._api.get(kind, metadata["namespace"], metadata["name"])
        if found and (found["metadata"].get("labels") or {}).get(names.MANAGED_BY) == "slipway":
            self._api.delete(kind, metadata["namespace"], metadata["name"], uid=found["metadata"]["uid"])


def _is_in_its_way(standing: Object, wanted: DesiredDeployment) -> bool:
    """What else is in its slot, in whatever namespace."""
    ref = names.ref_of(standing)
    is_it = ref == wanted.ref and standing["metadata"]["namespace"] == wanted.namespace
    return ref.slot is wanted.ref.slot and not is_it
