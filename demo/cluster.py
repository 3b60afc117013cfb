"""The demo's half in a cluster: controller, two Envoys and models' pods, in a namespace of the demo's own.

What stands there is what a team applies: the kustomize base of deploy/kubernetes, under an overlay with what
only this demo knows. Airflow, MLflow, training and traffic stay on this machine.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from demo.acts import Scenario
from demo.place import DemoHome
from demo.stage import Tell
from model_store.errors import Permanent
from model_store.installation import DAG_FILES, ROOT, is_clone

BASE = ROOT / "deploy" / "kubernetes"
URL_VARIABLE = "SLIPWAY_STORAGE_URL"
# What says how a bucket is reached (docs/storage.md); pods are told the same.
_OF_STORAGE = ("AWS_", "GOOGLE_")
# Whose namespace it is: no other is ever emptied.
MARK = "slipway/made-by-demo"
START_SECONDS = 240
END_SECONDS = 120
# An API server that does not answer may so long.
AWAY_SECONDS = 60
_COMPONENTS = {"controller": 8484, "gateway": 80}
# Of a demo, which is to fit beside everything else on a laptop.
_LITTLE = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "768Mi"}}
# Where name servers listen, behind the address that pods are given.
_NAME_PORTS = (53, 1053, 5353, 8053)

IMAGES, NAMESPACE = "slipway-{}:demo", "slipway-demo"

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """`images`: where the images are, with {} for `controller`, `gateway` or `pod`. `node`: one that sees
    this machine's folders; empty where any does."""

    images: str = IMAGES
    namespace: str = NAMESPACE
    node: str = ""

    def image(self, what: str) -> str:
        return self.images.format(what)


def spec_of(played: Scenario) -> Path:
    """The scenario's release spec, as a file that a home may have a copy of."""
    return played.spec or DAG_FILES / "releases" / f"{played.model}.yaml"


def put_spec(home: DemoHome, played: Scenario) -> None:
    """In the home's own copy, have its pods in the cluster."""
    path = home.root / "dags" / "releases" / spec_of(played).name
    said = yaml.safe_load(path.read_text())
    said["serving"] |= {"target": "kubernetes", "ready_timeout_seconds": START_SECONDS}
    path.write_text(yaml.safe_dump(said, sort_keys=False))


@contextmanager
def standing_in_cluster(
    home: DemoHome, played: Scenario, options: ClusterOptions, tell: Tell, *, keep: bool
) -> Iterator[DemoHome]:
    """The home, knowing its controller and gateway. What was made in the cluster is taken away, unless kept.

    Raises `Permanent` where there is no cluster, no bucket, or a namespace that is somebody else's.
    """
    url = require_bucket()
    cluster = Kubectl(options.namespace)
    tell(f"looking at the cluster {cluster.context()}")
    _make_namespace(cluster, tell)
    try:
        overlay = make_overlay(home, played, options, url)
        tell("applying deploy/kubernetes")
        cluster("apply", "-k", str(overlay))
        for name in _COMPONENTS:
            tell(f"waiting for the {name} in the cluster")
            _wait_ready(cluster, f"deployment/slipway-{name}")
        doors = {name: _door(cluster, name) for name in _COMPONENTS}
        said = {
            "SLIPWAY_CONTROLLER_URL": doors["controller"],
            "SLIPWAY_GATEWAY_URL": doors["gateway"],
            "SLIPWAY_CONTROLLER_TOKEN": _token(home, "controller"),
            "SLIPWAY_GATEWAY_DELIVERY": "ads",
            URL_VARIABLE: url,
        }
        os.environ.update(said)
        write_environment(home, said)
        yield DemoHome.of()
    finally:
        if not keep:
            tell("taking away what was made in the cluster")
            cluster("delete", "namespace", options.namespace, "--wait=false", "--ignore-not-found")


def environment_file(home: DemoHome) -> Path:
    """What a shell reads to speak to the installation: `. FILE`."""
    return home.root / "cluster.env"


def write_environment(home: DemoHome, said: Mapping[str, str]) -> None:
    """Readable by its owner alone: the controller's token is in it."""
    told = {"SLIPWAY_HOME": str(home.root), **said}
    _write_secret(
        environment_file(home), "".join(f"export {name}='{value}'\n" for name, value in told.items())
    )


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


class Kubectl:
    """kubectl, for the cluster that it is set to and one namespace."""

    def __init__(self, namespace: str) -> None:
        if not is_clone():
            raise Permanent(
                "the manifests that the demo applies are not installed with the package",
                remedy="run it in a clone of the repository",
            )
        program = shutil.which("kubectl")
        if program is None:
            raise Permanent("there is no kubectl on PATH", remedy="install it, and set it to a cluster")
        self._program, self.namespace = program, namespace

    def __call__(self, *arguments: str, told: str | None = None) -> str:
        """What it says. Raises `Permanent` with its own words where it fails."""
        done = self.run(*arguments, told=told)
        if done.returncode:
            raise Permanent(
                f"kubectl {' '.join(arguments[:3])}: {done.stderr.strip()}",
                remedy="does `kubectl get nodes` work? KUBECONFIG says which cluster is meant",
            )
        return done.stdout

    def run(self, *arguments: str, told: str | None = None) -> subprocess.CompletedProcess[str]:
        """Again where the API server did not answer: whatever is asked may be repeated."""
        deadline = time.monotonic() + AWAY_SECONDS
        while True:
            done = subprocess.run(
                [self._program, *arguments], input=told, capture_output=True, text=True, check=False
            )
            if done.returncode == 0 or time.monotonic() > deadline or not _is_away(done.stderr):
                return done
            time.sleep(2)

    def context(self) -> str:
        return self("config", "current-context").strip()

    def get(self, *arguments: str) -> Any:
        return json.loads(self("get", *arguments, "-o", "json"))

    def here(self, *arguments: str) -> Any:
        """Of the demo's own namespace."""
        return self.get(*arguments, "-n", self.namespace)


def _is_away(said: str) -> bool:
    """What kubectl says of an API server that is busy, or begins."""
    signs = (
        "TLS handshake timeout",
        "i/o timeout",
        "connection refused",
        "connection reset",
        "unexpected EOF",
    )
    return any(sign in said for sign in signs)


def require_bucket(environ: Mapping[str, str] = os.environ) -> str:
    """The bucket's URL. Raises `Permanent` where there is none."""
    url = environ.get(URL_VARIABLE, "")
    if not url.startswith(("s3://", "gs://")):
        raise Permanent(
            f"pods of a cluster fetch their model from a bucket, and {URL_VARIABLE} names none",
            remedy=f"set {URL_VARIABLE}=s3://BUCKET/PREFIX and the variables by which it is reached, from "
            "here and from pods alike (docs/storage.md)",
        )
    return url


def _make_namespace(cluster: Kubectl, tell: Tell) -> None:
    """Empty and ours. An earlier demo's is ended first."""
    found = cluster.run("get", "namespace", cluster.namespace, "-o", "json")
    if found.returncode == 0:
        if MARK not in (json.loads(found.stdout)["metadata"].get("labels") or {}):
            raise Permanent(
                f"there is a namespace {cluster.namespace}, and the demo did not make it",
                remedy="name another one with --namespace",
            )
        tell("ending what an earlier demo left in the cluster")
        cluster("delete", "namespace", cluster.namespace, f"--timeout={END_SECONDS}s")
    made = {"name": cluster.namespace, "labels": {MARK: "true"}}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": made}
    cluster("create", "-f", "-", told=json.dumps(namespace))


def _wait_ready(cluster: Kubectl, what: str) -> None:
    done = cluster.run("-n", cluster.namespace, "rollout", "status", what, f"--timeout={START_SECONDS}s")
    if done.returncode == 0:
        return
    pods = cluster.run("-n", cluster.namespace, "get", "pods").stdout.strip()
    events = cluster.run("-n", cluster.namespace, "get", "events", "--field-selector", "type=Warning").stdout
    said = "\n".join([pods, *events.strip().splitlines()[-5:]])
    raise Permanent(
        f"{what} is not ready after {START_SECONDS} s:\n{said}",
        remedy="are the images where the cluster finds them (--images)? docs/kubernetes.md",
    )


def _token(home: DemoHome, name: str) -> str:
    """What the controller is shown: the same for as long as the home lasts."""
    path = home.root / f"{name}-token"
    if not path.exists():
        _write_secret(path, secrets.token_urlsafe(32))
    return path.read_text().strip()


def _door(cluster: Kubectl, name: str) -> str:
    """The first address at which this machine reaches a Service's node port: its own, or a node's."""
    port = cluster.here("service", f"outside-{name}")["spec"]["ports"][0]["nodePort"]
    addresses = ["127.0.0.1", *_addresses(cluster)]
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        for address in addresses:
            url = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
            with suppress(httpx.TransportError):
                httpx.get(f"{url}/v2/health/live", timeout=2, trust_env=False)
                return url
        time.sleep(0.5)
    raise Permanent(
        f"the {name} is not reached from here at port {port} of {', '.join(addresses)}",
        remedy="the demo's traffic comes from this machine: let it reach the node ports of a node",
    )


def _addresses(cluster: Kubectl) -> list[str]:
    kinds = ("InternalIP", "ExternalIP")
    found = [each for node in cluster.get("nodes")["items"] for each in node["status"]["addresses"]]
    return [each["address"] for kind in kinds for each in found if each["type"] == kind]


def make_overlay(home: DemoHome, played: Scenario, options: ClusterOptions, url: str) -> Path:
    """What a team adds to the base for its cluster, as a folder that kustomize reads."""
    folder = home.root / "overlay"
    shutil.copytree(BASE, folder / "base")
    (folder / "extra.yaml").write_text(json.dumps(_extra(home, options, url)))
    (folder / "kustomization.yaml").write_text(json.dumps(_kustomization(home, played, options)))
    # The Secrets are in it.
    folder.chmod(0o700)
    return folder


def _kustomization(home: DemoHome, played: Scenario, options: ClusterOptions) -> Object:
    template = "/spec/template/spec"
    little = [{"op": "replace", "path": f"{template}/containers/0/resources", "value": _LITTLE}]
    # Both write into the home: as whoever runs the demo.
    user, group = os.getuid(), os.getgid()
    who = {"runAsUser": user, "runAsGroup": group, "fsGroup": group, "runAsNonRoot": user != 0}
    shared = {"name": "home", "hostPath": {"path": str(home.root)}}
    mover = [
        *(
            {"op": "add", "path": f"{template}/securityContext/{key}", "value": value}
            for key, value in who.items()
        ),
        {"op": "replace", "path": f"{template}/volumes/0", "value": shared},
        {
            "op": "add",
            "path": f"{template}/containers/0/env/-",
            "value": _variable("SLIPWAY_FAULTS", played.faults),
        },
    ]
    if options.node:
        chosen = {"kubernetes.io/hostname": options.node}
        mover.append({"op": "add", "path": f"{template}/nodeSelector", "value": chosen})
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": options.namespace,
        "resources": ["base", "extra.yaml"],
        "images": [_image(f"slipway-{name}", options.image(name)) for name in _COMPONENTS],
        "patches": [
            {"target": {"kind": "Deployment"}, "patch": json.dumps(little)},
            {"target": {"kind": "Deployment", "name": "slipway-controller"}, "patch": json.dumps(mover)},
        ],
    }


def _variable(name: str, value: str) -> Object:
    return {"name": name, "value": value}


def _image(name: str, image: str) -> Object:
    repository, colon, tag = image.rpartition(":")
    if not colon or "/" in tag:
        raise Permanent(f"--images: {image!r} has no tag", remedy="give it as REGISTRY/slipway-{}:TAG")
    return {"name": name, "newName": repository, "newTag": tag}


def _extra(home: DemoHome, options: ClusterOptions, url: str) -> Object:
    told = {name: value for name, value in os.environ.items() if name.startswith(_OF_STORAGE)}
    tokens = {name: _token(home, name) for name in ("controller", "ads")}
    items = [
        _object("Secret", "slipway-tokens", stringData=tokens),
        _object("Secret", "slipway-storage", stringData={**told, URL_VARIABLE: url}),
        _object("ConfigMap", "slipway", data={"kubernetes.yaml": json.dumps(_settings(options, url))}),
        *(_outside(name, port) for name, port in _COMPONENTS.items()),
        *_policies(_port_of_bucket()),
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _settings(options: ClusterOptions, url: str) -> Object:
    """kubernetes.yaml"""
    pods = {"image": options.image("pod"), "image_pull_policy": "IfNotPresent", "resources": _LITTLE}
    return {
        "namespaces": [options.namespace],
        "bundles": {"url": url, "secret": "slipway-storage"},
        "defaults": pods,
    }


def _policies(bucket_port: int) -> Iterator[Object]:
    """What deploy/kubernetes leaves to the overlay: names, the bucket, and who asks the controller."""
    names = [{"protocol": kind, "port": port} for kind in ("UDP", "TCP") for port in _NAME_PORTS]
    yield _policy("names", {}, egress=[{"ports": names}])
    anywhere = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}
    models = {"matchExpressions": [{"key": "slipway/service", "operator": "Exists"}]}
    bucket = {"to": [anywhere], "ports": [{"protocol": "TCP", "port": bucket_port}]}
    yield _policy("bundles", models, egress=[bucket])
    # From this machine, whose address the cluster may see as a node's. It has a token.
    asked = {"ports": [{"protocol": "TCP", "port": 8484}]}
    yield _policy("demo", {"matchLabels": _labels("controller")}, ingress=[asked])


def _policy(name: str, pods: Object, **rules: list[Object]) -> Object:
    kinds = [direction.capitalize() for direction in rules]
    metadata = {"name": name}
    spec = {"podSelector": pods, "policyTypes": kinds, **rules}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": spec,
    }


def _port_of_bucket() -> int:
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    return endpoint.port or (80 if endpoint.scheme == "http" else 443)


def _labels(component: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "slipway", "app.kubernetes.io/component": component}


def _outside(component: str, port: int) -> Object:
    """A door to it on each node."""
    ports = [{"name": "http", "port": port, "targetPort": "http"}]
    spec = {"type": "NodePort", "selector": _labels(component), "ports": ports}
    return _object("Service", f"outside-{component}", spec=spec)


def _object(kind: str, name: str, **content: Any) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **content}
