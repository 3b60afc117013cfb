"""The Deployment of one version in one slot: what we ask the cluster for. Pure."""

from __future__ import annotations

import math

from model_store import attestation
from model_store.release_spec.kubernetes import Pods, Resources
from serving.platforms.kubernetes import names
from serving.platforms.kubernetes.api import Object
from serving.platforms.kubernetes.bundles import bundle_volumes, fetching
from serving.platforms.kubernetes.installation import Installation
from serving.platforms.kubernetes.wanted import DesiredDeployment

CONTAINER = "pod"
PORT = 8080

# Ours, in the image of deploy/pod.Dockerfile.
_USER = 10001

_PROBE_SECONDS = 2
# Answers in a row that do not come. No reason to be quick: a restart loads the model anew.
_LIVENESS_FAILURES = 5
# Beyond the drain: for the process to end by itself before it is killed.
_SPARE_SECONDS = 5

_MEBI = 2**20
# What a pod needs beside its model: the interpreter, numpy and onnxruntime.
_BASE_MEBI = 512
# A model is read, optimised and kept: for a moment there is more than one of it.
_TIMES_THE_BUNDLE = 3


def deployment(wanted: DesiredDeployment, installation: Installation, *, replicas: int) -> Object:
    """`replicas`: to begin with; an autoscaler may say another number later."""
    labels = names.labels_of(installation.name, wanted.ref)
    spec: Object = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "revisionHistoryLimit": 1,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": labels}, "spec": pod(wanted, installation, labels)},
    }
    exact = {names.EXACT_SERVICE: wanted.ref.service, names.BUNDLE: wanted.ref.bundle_id}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": names.object_name(installation.name, wanted.ref),
            "namespace": wanted.namespace,
            "labels": labels,
            "annotations": exact,
        },
        "spec": spec,
    }


def pod(wanted: DesiredDeployment, installation: Installation, labels: dict[str, str]) -> Object:
    """The pod's own spec, as the "restricted" Pod Security Standard wants it."""
    asked = wanted.asked
    found: Object = {
        **restricted(asked),
        "terminationGracePeriodSeconds": installation.notice_seconds
        + installation.drain_seconds
        + _SPARE_SECONDS,
        "topologySpreadConstraints": [_spread(installation, labels)],
        "initContainers": fetching(wanted, installation, CONFINED),
        "containers": [_container(wanted, installation)],
        "volumes": [*bundle_volumes(installation), {"name": "scratch", "emptyDir": {}}],
    }
    return {key: value for key, value in found.items() if value not in (None, [], {})}


def restricted(asked: Pods) -> Object:
    """What the spec of every pod of ours begins with: confined, without an account's token, and where it is
    asked to run."""
    found: Object = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "imagePullSecrets": [{"name": name} for name in asked.image_pull_secrets or ()],
        "nodeSelector": asked.node_selector,
        "tolerations": [each.model_dump(exclude_none=True) for each in asked.tolerations or ()],
        "priorityClassName": asked.priority_class,
        "runtimeClassName": asked.runtime_class,
        "serviceAccountName": asked.service_account,
    }
    return {key: value for key, value in found.items() if value not in (None, [], {})}


CONFINED: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def _container(wanted: DesiredDeployment, installation: Installation) -> Object:
    found: Object = {
        "name": CONTAINER,
        "image": wanted.image,
        "imagePullPolicy": wanted.asked.image_pull_policy,
        "args": _arguments(wanted, installation),
        "env": _environment(wanted, installation),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": resources(wanted),
        "securityContext": CONFINED,
        "volumeMounts": [
            {"name": "bundle", "mountPath": "/bundles", "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - a folder of the pod's own
        ],
        # The kubelet takes the last lines of the log where the pod says nothing: they come with its status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # Envoys hear of the end while the pod still takes requests, then it is told (SIGTERM) and drains.
        "lifecycle": {"preStop": {"sleep": {"seconds": installation.notice_seconds}}},
        **_probes(wanted),
    }
    return {key: value for key, value in found.items() if value not in (None, [], {})}


def _probes(wanted: DesiredDeployment) -> Object:
    """Startup: the model is loaded and has answered its warm rows, for which it has `ready_timeout_seconds`.
    Readiness: the pod takes traffic. Liveness: its event loop answers and no batch is stuck in the engine."""
    seconds = float(wanted.serving.get("ready_timeout_seconds", 60))
    ready, live = ({"httpGet": {"path": f"/v2/health/{what}", "port": "http"}} for what in ("ready", "live"))
    often = {"periodSeconds": 1, "timeoutSeconds": _PROBE_SECONDS}
    return {
        "startupProbe": {**ready, **often, "failureThreshold": max(1, math.ceil(seconds))},
        "readinessProbe": {**ready, **often, "failureThreshold": 2},
        "livenessProbe": {**live, **often, "periodSeconds": 5, "failureThreshold": _LIVENESS_FAILURES},
    }


def _arguments(wanted: DesiredDeployment, installation: Installation) -> list[str]:
    return [
        *("--bundle", f"/bundles/{wanted.ref.bundle_id}", "--host", "0.0.0.0", "--port", str(PORT)),
        *("--slot", wanted.ref.slot.value, "--drain-seconds", str(installation.drain_seconds)),
        "--answer-warm-rows",
    ]


def _environment(wanted: DesiredDeployment, installation: Installation) -> list[Object]:
    found: list[Object] = [{"name": attestation.VARIABLE, "value": wanted.trusted}]
    if wanted.serving.get("runtime") == "python":
        # The root is read-only, and the model's own Python is made there.
        found.append({"name": "SLIPWAY_ENVIRONMENTS", "value": "/tmp/environments"})  # noqa: S108
    if (wanted.serving.get("cache") or {}).get("shared") and installation.redis:
        key = {"name": installation.redis.name, "key": installation.redis.key}
        found.append({"name": "SLIPWAY_REDIS", "valueFrom": {"secretKeyRef": key}})
    if wanted.faults:
        found.append({"name": "SLIPWAY_FAULTS", "value": wanted.faults})
    return found


def resources(wanted: DesiredDeployment) -> Object:
    """As the spec says; what it leaves open is sized by its threads and its bundle.

    No limit of processor time by itself: what it takes from a pod is the tail of its latencies.
    """
    said = wanted.asked.resources or Resources()
    mebi = _BASE_MEBI + math.ceil(_TIMES_THE_BUNDLE * wanted.bundle_bytes / _MEBI)
    memory = said.limits.get("memory", said.requests.get("memory", f"{mebi}Mi"))
    requests = {"cpu": str(wanted.serving.get("threads", 1)), "memory": memory, **said.requests}
    limits = {"memory": memory, **said.limits}
    # A limit below what we would have asked for by ourselves is what is wanted.
    for resource, limit in said.limits.items():
        if resource not in said.requests:
            requests[resource] = limit
    return {
        "requests": {key: str(value) for key, value in requests.items()},
        "limits": {key: str(value) for key, value in limits.items()},
    }


def _spread(installation: Installation, labels: dict[str, str]) -> Object:
    """Over nodes where it can be done. Never refused for it: a scarce GPU that is free is better used."""
    return {
        "maxSkew": 1,
        "topologyKey": installation.spread_over,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
        "matchLabelKeys": ["pod-template-hash"],
    }
