"""Pods that each run one stage of a build: what is asked of the cluster, and what became of it.

The pod is made by Airflow's KubernetesPodOperator (`slipway_airflow.stage_pod`); nothing here starts one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from model_store.errors import Permanent
from model_store.release_spec.kubernetes import BuildKubernetes, Resources, StageName, StagePods, over
from serving.home import Home
from serving.platforms.kubernetes import names
from serving.platforms.kubernetes.api import ClusterApi, Object
from serving.platforms.kubernetes.deployment import CONFINED, restricted
from serving.platforms.kubernetes.installation import Installation, read_installation
from serving.platforms.kubernetes.rights import FOR_STAGES, may_read_events, require_rights
from serving.platforms.kubernetes.stage_endings import CONTAINER, StageState, state_of

RELEASE, STAGE, REQUEST = "slipway/release", "slipway/stage", "slipway/request"
COMPONENT = "app.kubernetes.io/component"

_KEYS = "/etc/slipway"
_USUAL = StagePods(
    resources=Resources(requests={"cpu": "1", "memory": "2Gi"}, limits={"memory": "2Gi"}),
    active_deadline_seconds=1800,
    schedule_timeout_seconds=3600,
)


@dataclass(frozen=True, slots=True)
class StageWork:
    """What a pod is to do. `url`: of the storage. `digest`: of what it is asked. `keys`: the installation's
    public ones, with which a champion's bundle is verified."""

    stage: str
    release: str
    model: str
    digest: str
    url: str
    input_url: str
    output_url: str
    keys: str


class StageCluster:
    """The cluster as stages need it. Nothing is read or asked before the first call."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._opened: tuple[Installation, ClusterApi] | None = None
        self._allowed: set[str] = set()
        self._reads_events: dict[str, bool] = {}
        self._lock = threading.Lock()

    def wanted(self, stage: str, asked: BuildKubernetes | None) -> StagePods:
        """What the spec says, else the installation, else what is usual. Raises `Permanent` without an image,
        for a namespace that specs may not name, and naming every right that is missing."""
        installation, api = self._cluster()
        name = cast(StageName, stage)
        wanted = over(_USUAL, over(installation.builds.of(name), (asked or BuildKubernetes()).of(name)))
        if wanted.image is None:
            raise Permanent(
                "no image of stages is named",
                remedy="build deploy/stage.Dockerfile and name it in kubernetes.yaml: `builds: {image: ...}`",
            )
        namespace = installation.namespace(wanted)
        if namespace not in self._allowed:
            require_rights(api, [namespace], FOR_STAGES)
            self._allowed.add(namespace)
        return wanted.model_copy(update={"namespace": namespace})

    def pod(self, work: StageWork, wanted: StagePods) -> Object:
        """The pod to make."""
        return stage_pod(work, wanted, self._cluster()[0])

    def kubeconfig(self) -> tuple[str | None, str | None]:
        """File and context, for whoever opens a connection of its own; None is the usual one."""
        installation, _ = self._cluster()
        return installation.kubeconfig, installation.context

    def running(self, work: StageWork, namespace: str) -> Object | None:
        """The youngest pod that does this already. Others that do the same are ended: one is enough."""
        _, api = self._cluster()
        found = api.list("Pod", namespace, labels=self._selector(work.release, work.digest))
        live = [pod for pod in found if state_of(pod, (), at_most=None).is_running]
        live.sort(key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        for pod in live[:-1]:
            self._end(pod)
        return live[-1] if live else None

    def state(self, namespace: str, name: str, uid: str, waits: float) -> StageState:
        """How that very pod is. `waits`: seconds it has been waiting for its start."""
        _, api = self._cluster()
        pod = api.get("Pod", namespace, name)
        if pod is not None and pod["metadata"]["uid"] != uid:
            pod = None
        return state_of(pod, self._events(api, namespace, pod), at_most=waits)

    def log(self, namespace: str, name: str, since: str = "") -> str:
        """What it wrote, each line behind its time."""
        return self._cluster()[1].log(namespace, name, since=since)

    def end(self, namespace: str, name: str, uid: str) -> None:
        """That very pod; no error where it has gone."""
        self._cluster()[1].delete("Pod", namespace, name, uid=uid)

    def end_all(self, release: str) -> list[str]:
        """Every pod of a release that is not ending by itself; returns their names."""
        return self._end_where(self._selector(release), lambda pod: True)

    def end_orphans(self, is_over: Callable[[str], bool]) -> list[str]:
        """Every pod of a release that is over, by whatever it ended; returns their names."""
        return self._end_where(
            self._selector(None), lambda pod: is_over(pod["metadata"].get("annotations", {}).get(RELEASE, ""))
        )

    def _end_where(self, selector: str, is_to_end: Callable[[Object], bool]) -> list[str]:
        installation, api = self._cluster()
        found = [pod for each in installation.namespaces for pod in api.list("Pod", each, labels=selector)]
        ended = [pod for pod in found if "deletionTimestamp" not in pod["metadata"] and is_to_end(pod)]
        for pod in ended:
            self._end(pod)
        return [str(pod["metadata"]["name"]) for pod in ended]

    def _end(self, pod: Object) -> None:
        metadata = pod["metadata"]
        self.end(metadata["namespace"], metadata["name"], metadata["uid"])

    def _selector(self, release: str | None, digest: str = "") -> str:
        labels = {names.MANAGED_BY: "slipway", names.INSTALLATION: self._cluster()[0].name}
        labels |= {COMPONENT: "stage"} | ({RELEASE: names.label_value(release)} if release else {})
        labels |= {REQUEST: short(digest)} if digest else {}
        return ",".join(f"{key}={value}" for key, value in labels.items())

    def _events(self, api: ClusterApi, namespace: str, pod: Object | None) -> tuple[Object, ...]:
        """Of a pod that has not begun. None are read where we may not: some reasons are less exact then."""
        if pod is None or pod["status"].get("phase") != "Pending":
            return ()
        if namespace not in self._reads_events:
            self._reads_events[namespace] = may_read_events(api, namespace)
        if not self._reads_events[namespace]:
            return ()
        fields = f"involvedObject.uid={pod['metadata']['uid']}"
        return tuple(api.list("Event", namespace, fields=fields))

    def _cluster(self) -> tuple[Installation, ClusterApi]:
        with self._lock:
            if self._opened is None:
                installation = read_installation(self._home)
                self._opened = (installation, ClusterApi(installation))
            return self._opened


def stage_pod(work: StageWork, wanted: StagePods, installation: Installation) -> Object:
    """As the "restricted" Pod Security Standard wants it, and without an account's token. Pure."""
    metadata: Object = {
        "namespace": wanted.namespace,
        "labels": {
            names.MANAGED_BY: "slipway",
            names.INSTALLATION: installation.name,
            names.SERVICE: names.label_value(work.model),
            COMPONENT: "stage",
            RELEASE: names.label_value(work.release),
            STAGE: work.stage,
            REQUEST: short(work.digest),
        },
        "annotations": {RELEASE: work.release, "slipway/bundle-keys": work.keys},
    }
    keys = {"path": "keys.json", "fieldRef": {"fieldPath": "metadata.annotations['slipway/bundle-keys']"}}
    spec: Object = {
        **restricted(wanted),
        "activeDeadlineSeconds": wanted.active_deadline_seconds,
        # There is nothing to finish: what it has made so far is in the storage.
        "terminationGracePeriodSeconds": 5,
        "restartPolicy": "Never",
        "containers": [_container(work, wanted, installation)],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "home", "emptyDir": {}},
            {"name": "keys", "downwardAPI": {"items": [keys]}},
        ],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _container(work: StageWork, wanted: StagePods, installation: Installation) -> Object:
    secret = installation.builds.secret or (installation.bundles.secret if installation.bundles else None)
    resources = wanted.resources or Resources()
    found: Object = {
        "name": CONTAINER,
        "image": wanted.image,
        "imagePullPolicy": wanted.image_pull_policy,
        "args": [work.stage, "--input", work.input_url, "--output", work.output_url],
        "env": [
            {"name": "SLIPWAY_STORAGE_URL", "value": work.url},
            {"name": "SLIPWAY_BUNDLE_KEYS", "value": f"{_KEYS}/keys.json"},
            # The pod is the sandbox: in one as the "restricted" standard wants it, no other can be made.
            {"name": "SLIPWAY_SANDBOX", "value": "off"},
        ],
        "envFrom": [{"secretRef": {"name": secret}}] if secret else None,
        "resources": {
            "requests": _texts({**resources.limits, **resources.requests}),
            "limits": _texts(resources.limits),
        },
        "securityContext": CONFINED,
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - a folder of the pod's own
            {"name": "home", "mountPath": "/var/lib/slipway"},
            {"name": "keys", "mountPath": _KEYS, "readOnly": True},
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    return {key: value for key, value in found.items() if value is not None}


def short(digest: str) -> str:
    """A digest as a label's value."""
    return digest.removeprefix("sha256:")[:32]


def _texts(quantities: Mapping[str, object]) -> dict[str, str]:
    return {name: str(quantity) for name, quantity in quantities.items()}
