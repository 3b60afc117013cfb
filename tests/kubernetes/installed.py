"""Controller and gateway in the cluster, as deploy/kubernetes says, and who asks them from this machine.

What this machine has of it is what Airflow's workers have: the bucket, the cluster's API, the controller's
address and its token. The installation's home is a volume, which a worker sees as well.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store import signing
from model_store.errors import Retryable
from model_store.installation import ROOT
from model_store.release_spec import load
from model_store.storage.store import open_store
from model_store.types import Bundle, ModelRef
from serving import composition
from serving.control.releases import Release, Request
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.traffic import RolloutPhase
from serving.control.wiring import Services
from serving.home import Home, Ports
from serving.metrics.base import EndpointCounters
from serving.metrics.envoy import EnvoyAdmin
from serving.types import Endpoint
from tests.kubernetes import cluster as clusters
from tests.kubernetes.cluster import Cluster
from tests.servable import publish_mlp

USER = 10001
SPEC = ROOT / "dags" / "releases" / "credit_risk.yaml"
ROWS = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}
CONTROLLER, GATEWAY = "slipway-controller", "slipway-gateway"
# The controller starts pods, and says what is wrong with them.
FAILING = {20: 22, 100: 102}
FAULTS = [f"credit_risk@{version}:error_rate=1" for version in FAILING.values()]
# Small enough that all of it fits on a machine of two processors.
_LITTLE = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "768Mi"}}
_POD = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "384Mi"}}


@dataclass
class Load:
    """What callers were answered, by status or by what went wrong instead. Each has its own connection."""

    answers: Counter[object] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> dict[object, int]:
        return {answer: count for answer, count in self.answers.items() if answer != 200}


@dataclass
class Installed:
    """`home` is as a worker has it."""

    cluster: Cluster
    namespace: str
    home: Home
    gateway_url: str
    overlay: Path
    number: int = 0

    @property
    def services(self) -> Services:
        return composition.wire(self.home)

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, check=check)

    def pods(self, component: str) -> dict[str, str]:
        """Those that are not ending: their addresses, by name."""
        label = f"app.kubernetes.io/component={component}"
        found = self.cluster.get("pods", "-n", self.namespace, "-l", label)["items"]
        there = (each for each in found if "deletionTimestamp" not in each["metadata"])
        return {each["metadata"]["name"]: each["status"].get("podIP", "") for each in there}

    @contextmanager
    def worker(self) -> Iterator[Services]:
        """What is written into the home by one is its controller's, too."""
        try:
            yield self.services
        finally:
            owned(self.home.root)

    def bundle(self, model: str, version: int, **serving: Any) -> Bundle:
        """Published into the bucket, as a build does it."""
        said = {"replicas": 1, "target": "kubernetes", "ready_timeout_seconds": 180, **serving}
        return publish_mlp(open_store(self.home.store), ModelRef(model, version), said)

    def release(
        self, model: str, version: int, *, steps: tuple[int, ...], hold_seconds: float, replicas: int
    ) -> Release:
        self.number += 1
        at = datetime.now(UTC)
        request = Request(
            f"release_{model}", f"run-{self.number}", at, str(version), "", "ada", dry_run=False
        )
        spec = load(SPEC)
        usual = spec.rollout.steps[0]
        made = tuple(
            usual.model_copy(update={"weight": weight, "hold_seconds": hold_seconds}) for weight in steps
        )
        analysis = spec.rollout.analysis.model_copy(update={"min_requests": 20})
        rollout = spec.rollout.model_copy(
            update={
                "steps": made,
                "max_step_seconds": max(spec.rollout.max_step_seconds, 2 * hold_seconds),
                "watch_seconds": 2.0,
                "analysis": analysis,
                "strategy": "canary",
            }
        )
        pods = {"replicas": replicas, "ready_timeout_seconds": 180}
        serving = spec.serving.model_copy(update=pods)
        told: dict[str, Any] = {"model": model, "rollout": rollout, "freezes": (), "notify": ()}
        told["serving"] = serving
        return self.services.releases.open(request, spec.model_copy(update=told), lambda _: version)

    def start(
        self,
        model: str,
        version: int,
        *,
        steps: tuple[int, ...] = (50, 100),
        hold_seconds: float = 2.0,
        replicas: int = 1,
    ) -> RolloutState:
        """Pods, and the rollout once they are ready: as Airflow's task asks for it and records it."""
        with self.worker() as services:
            release = self.release(model, version, steps=steps, hold_seconds=hold_seconds, replicas=replicas)
            bundle = self.bundle(model, version, replicas=replicas)
            services.releases.built(release.id, bundle.id, at=datetime.now(UTC))
        client = services.rollouts
        client.begin(release.id, bundle.id)
        starting = RolloutPhase.STARTING
        wait(lambda: client.progress([release.id])[release.id].phase is not starting, seconds=180)
        with self.worker() as services:
            services.lock.release(model, release.id)
        return self.state(release.id)

    def state(self, release: str) -> RolloutState:
        return self.services.rollouts.read(release)

    def until(self, began: RolloutState, phase: Phase, *, seconds: float = 90) -> RolloutState:
        """Raises where it takes longer, with what the controller says."""
        try:
            wait(lambda: self.state(began.release_id).phase is phase, seconds=seconds)
        except AssertionError:
            said = self.kubectl("logs", f"deployment/{CONTROLLER}", "--tail=15", check=False)
            raise AssertionError(f"{self.state(began.release_id)}\n{said}") from None
        return self.state(began.release_id)

    def infer(self, model: str) -> httpx.Response:
        return httpx.post(f"{self.gateway_url}/v2/models/{model}/infer", json=ROWS, timeout=20)

    @contextmanager
    def callers(self, model: str, *, count: int = 6) -> Iterator[Load]:
        load, ending = Load(), threading.Event()
        threads = [threading.Thread(target=self._call, args=(model, load, ending)) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            ending.set()
            for thread in threads:
                thread.join()

    def _call(self, model: str, load: Load, ending: threading.Event) -> None:
        # A connection that nobody takes is tried again, as callers of a Service do whose Envoys come and go.
        transport = httpx.HTTPTransport(retries=3)
        with httpx.Client(base_url=self.gateway_url, timeout=30, transport=transport) as client:
            while not ending.wait(0.03):
                try:
                    answer = client.post(f"/v2/models/{model}/infer", json=ROWS)
                    load.answers[answer.status_code] += 1
                    load.versions[answer.json().get("model_version", "")] += 1
                except httpx.HTTPError as problem:
                    load.answers[repr(problem)] += 1


@dataclass
class Seen:
    """What every Envoy said of a service's endpoints, again and again: when a failure was first counted, and
    when the last Envoy stopped sending to the endpoint."""

    envoys: dict[str, EnvoyAdmin]
    service: str
    endpoint: Endpoint
    first_error: float = 0.0
    weights: dict[str, int] = field(default_factory=dict)
    zero: dict[str, float] = field(default_factory=dict)

    def look(self) -> None:
        for name, admin in self.envoys.items():
            found = admin.counters().get(self.service, {}).get(self.endpoint)
            self._note(name, found, time.monotonic())

    def _note(self, name: str, found: EndpointCounters | None, at: float) -> None:
        weight = found.weight if found else 0
        if found and found.errors and not self.first_error:
            self.first_error = at
        if self.weights.get(name) and not weight:
            self.zero[name] = at
        self.weights[name] = weight

    @property
    def seconds(self) -> float:
        return max(self.zero.values()) - self.first_error


def wait(condition: Callable[[], object], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(httpx.TransportError, Retryable):
            if condition():
                return
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def owned(root: Path) -> None:
    """Everything below is the pods' user's."""
    for folder, _, files in os.walk(root):
        for name in ("", *files):
            with suppress(FileNotFoundError):
                os.chown(Path(folder) / name, USER, USER)


def images() -> dict[str, str]:
    """Of controller, gateway and pods, built and on every node."""
    return {name: clusters.image_of(name) for name in ("controller", "gateway", "pod")}


def overlay(
    folder: Path,
    namespace: str,
    volume: Path,
    bucket: httpx.URL,
    images: dict[str, str],
    node: dict[str, str],
    *,
    pinned: Collection[str] = (CONTROLLER,),
    components: Collection[str] = (),
) -> Path:
    """What somebody adds to deploy/kubernetes for their cluster. `pinned`: Deployments on that node.
    `components`: folders of the base."""
    shutil.copytree(ROOT / "deploy" / "kubernetes", folder / "base")
    # Kustomize keeps to folders below it; the base's namespace and images are this one's to say.
    (folder / "extra.yaml").write_text(json.dumps(_extra(namespace, volume, bucket)))
    little = [
        {"op": "replace", "path": "/spec/template/spec/containers/0/resources", "value": _LITTLE},
        {"op": "add", "path": "/spec/template/spec/containers/0/imagePullPolicy", "value": "Never"},
    ]
    faults = {"name": "SLIPWAY_FAULTS", "value": ";".join(FAULTS)}
    failing = {"op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": faults}
    here = {"op": "add", "path": "/spec/template/spec/nodeSelector", "value": node}
    patches = [
        {"target": {"kind": "Deployment"}, "patch": json.dumps(little)},
        {"target": {"kind": "Deployment", "name": CONTROLLER}, "patch": json.dumps([failing])},
        *({"target": {"kind": "Deployment", "name": name}, "patch": json.dumps([here])} for name in pinned),
    ]
    said = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": ["base", "extra.yaml"],
        "components": [f"base/{name}" for name in components],
        "images": [
            _image(CONTROLLER, images["controller"]),
            _image(GATEWAY, images["gateway"]),
        ],
        "patches": patches,
    }
    (folder / "kustomization.yaml").write_text(json.dumps(said))
    return folder


def _image(name: str, image: str) -> dict[str, str]:
    repository, _, tag = image.rpartition(":")
    return {"name": name, "newName": repository, "newTag": tag}


def _extra(namespace: str, volume: Path, bucket: httpx.URL) -> dict[str, Any]:
    kept: dict[str, Any] = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    storage = {"storage": "1Gi"}
    model_pods = {"matchExpressions": [{"key": "slipway/service", "operator": "Exists"}]}
    # The bucket's port alone: on a cluster of this machine the API server has the same address.
    door = [{"protocol": "TCP", "port": bucket.port}]
    to_bucket = {"to": [{"ipBlock": {"cidr": f"{bucket.host}/32"}}], "ports": door}
    ports = [{"protocol": protocol, "port": 1053} for protocol in ("UDP", "TCP")]
    names = {"to": [{"ipBlock": {"cidr": f"{bucket.host}/32"}}], "ports": ports}
    nodes_door = {"type": "NodePort"}
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": namespace},
                "spec": {
                    **kept,
                    "capacity": storage,
                    "hostPath": {"path": str(volume)},
                    "claimRef": {"namespace": namespace, "name": "slipway-home"},
                },
            },
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "slipway-home"},
                "spec": {**kept, "resources": {"requests": storage}, "volumeName": namespace},
            },
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": "bundles"},
                "spec": {"podSelector": model_pods, "policyTypes": ["Egress"], "egress": [to_bucket]},
            },
            # A cluster that scripts start has its name server on the machine, not in a pod.
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"name": "names"},
                "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [names]},
            },
            *(
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": f"outside-{component}"},
                    "spec": {
                        **nodes_door,
                        "selector": {
                            "app.kubernetes.io/name": "slipway",
                            "app.kubernetes.io/component": component,
                        },
                        "ports": [{"name": "http", "port": port, "targetPort": "http"}],
                    },
                }
                for component, port in (("gateway", 80), ("controller", 8484))
            ),
        ],
    }


@contextmanager
def installed(
    cluster: Cluster,
    namespace: str,
    folder: Path,
    bucket_url: str,
    environment: dict[str, str],
    *,
    models_on_all_nodes: bool = False,
    database_url: str = "",
) -> Iterator[Installed]:
    """All of it, ready. The bucket's address is among `environment`, as the AWS libraries read it.

    Models' pods are on the first node, where policies are enforced, and Envoys on any; or the reverse. With
    a `database_url` there are two controllers.
    """
    found = images()
    volume = folder / "home"
    volume.mkdir()
    owned(volume)
    tokens = {"controller": "a token of the test", "ads": "another one"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIPWAY_CONTROLLER_TOKEN", tokens["controller"])
        patch.setenv("SLIPWAY_STORAGE_URL", bucket_url)
        node = {"kubernetes.io/hostname": _first_node(cluster)}
        said = {
            "namespaces": [namespace],
            "bundles": {"url": bucket_url, "secret": "slipway-storage"},
            "defaults": {
                "image": found["pod"],
                "image_pull_policy": "Never",
                "resources": _POD,
                **({} if models_on_all_nodes else {"node_selector": node}),
            },
        }
        secrets: dict[str, dict[str, str]] = {
            "slipway-tokens": tokens,
            "slipway-storage": {**environment, "SLIPWAY_STORAGE_URL": bucket_url},
        }
        if database_url:
            secrets["slipway-database"] = {"url": database_url}
            secrets["slipway-bundle-keys"] = {"keys.json": _public_keys(volume)}
        cluster.apply(
            *(_named("Secret", name, namespace, stringData=content) for name, content in secrets.items()),
            _named("ConfigMap", "slipway", namespace, data={"kubernetes.yaml": json.dumps(said)}),
        )
        made = overlay(
            folder / "overlay",
            namespace,
            volume,
            httpx.URL(environment["AWS_ENDPOINT_URL"]),
            found,
            node,
            pinned=(CONTROLLER, GATEWAY) if models_on_all_nodes else (CONTROLLER,),
            components=("two-controllers",) if database_url else (),
        )
        try:
            cluster.kubectl("apply", "-k", str(made))
            # A worker reads the same settings, and has its own way to the cluster.
            (volume / "kubernetes.yaml").write_text(
                json.dumps({**said, "kubeconfig": str(cluster.kubeconfig)})
            )
            doors = {each: _door(cluster, namespace, each) for each in ("controller", "gateway")}
            at = {"controller_at": doors["controller"], "gateway_at": doors["gateway"]}
            home = Home(volume, Ports(), "ads", **at)
            for name in (CONTROLLER, GATEWAY):
                rollout = ("rollout", "status", f"deployment/{name}", "--timeout=110s")
                cluster.kubectl("-n", namespace, *rollout)
            # Nodes hear of what is ready a moment after the Deployment does.
            wait(lambda: all(httpx.get(f"{door}/v2/health/live", trust_env=False) for door in doors.values()))
            yield Installed(cluster, namespace, home, doors["gateway"], made)
        finally:
            cluster.kubectl("delete", "persistentvolume", namespace, "--wait=false", check=False)


def _public_keys(volume: Path) -> str:
    """Made there, where bundles are signed."""
    store = open_store(Home(volume, Ports()).store)
    store.keyring()
    return signing.public_part(store.keys).decode()


def _first_node(cluster: Cluster) -> str:
    labels = cluster.get("nodes")["items"][0]["metadata"]["labels"]
    return str(labels["kubernetes.io/hostname"])


def _named(kind: str, name: str, namespace: str, **content: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, **content}


def _door(cluster: Cluster, namespace: str, component: str) -> str:
    service = cluster.get("service", f"outside-{component}", "-n", namespace)
    return f"http://127.0.0.1:{service['spec']['ports'][0]['nodePort']}"
