"""A real cluster for tests: the one that KUBECONFIG names, or one that scripts beside the repository start.

What a test does to the cluster beside the platform, it does as an administrator, by kubectl.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store.installation import ROOT as REPOSITORY
from tests import images

# Scripts `up` and `down` that start and end a cluster of this machine's own, and its programs.
SCRIPTS = Path(os.environ.get("SLIPWAY_KUBERNETES_SCRIPTS") or REPOSITORY.parent / "shared" / "kubernetes")
PROGRAMS = Path(os.environ.get("SLIPWAY_KUBERNETES_BIN") or "/opt/slipway-kubernetes/bin")
CLUSTER_HOME = Path("/var/lib/slipway-kubernetes")
# Of pods that are there already; otherwise Docker builds it and it is copied onto the nodes.
IMAGE = os.environ.get(images.POD_IMAGE, "")


@dataclass(frozen=True)
class Cluster:
    """`kubeconfig` of an administrator. `shared`: a folder that every node sees under the same path."""

    kubeconfig: Path
    shared: Path
    is_ours: bool

    def kubectl(self, *arguments: str, input: str = "", check: bool = True) -> str:
        program = shutil.which("kubectl") or str(PROGRAMS / "kubectl")
        done = subprocess.run(
            [program, "--kubeconfig", str(self.kubeconfig), *arguments],
            input=input,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", input=json.dumps(listed))

    def objects(self, kind: str, namespace: str, service: str) -> list[dict[str, Any]]:
        """What belongs to a service, as labels say."""
        found = self.get(kind, "-n", namespace, "-l", f"slipway/service={service}")
        return list(found["items"])

    @contextmanager
    def namespace(self, **labels: str) -> Iterator[str]:
        """One of the test's own; gone with everything in it afterwards, which is not waited for."""
        name = f"slipway-test-{uuid.uuid4().hex[:8]}"
        marks = {f"pod-security.kubernetes.io/{key}": value for key, value in labels.items()}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": marks}})
        try:
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false", check=False)


def missing() -> str:
    """Why there is no cluster to test on; empty where there is or can be one."""
    if os.environ.get("KUBECONFIG"):
        return "" if IMAGE else "KUBECONFIG is set: name an image that it can run as SLIPWAY_TEST_POD_IMAGE"
    if not (SCRIPTS / "up").exists():
        return f"KUBECONFIG is not set, and {SCRIPTS} has no script that starts a cluster"
    if not (PROGRAMS / ".versions").exists():
        return f"KUBECONFIG is not set, and {PROGRAMS} has no cluster's programs (SLIPWAY_KUBERNETES_BIN)"
    if os.geteuid() != 0:
        return "only root can start a cluster here"
    if not IMAGE and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker Engine answers, which would build the pods' image"
    return ""


@contextmanager
def running(*, nodes: int = 1) -> Iterator[Cluster]:
    """The cluster, ended afterwards if this started it."""
    # Pods run as somebody else than the tests.
    shared = Path(tempfile.mkdtemp(prefix="slipway-kubernetes-", dir="/var/tmp"))
    shared.chmod(0o755)
    try:
        if named := os.environ.get("KUBECONFIG"):
            yield Cluster(Path(named), shared, is_ours=Path(named) == CLUSTER_HOME / "admin.kubeconfig")
            return
        was_running = _answers(CLUSTER_HOME / "admin.kubeconfig")
        start(nodes=nodes)
        try:
            yield Cluster(CLUSTER_HOME / "admin.kubeconfig", shared, is_ours=True)
        finally:
            if not was_running:
                subprocess.run([SCRIPTS / "down", CLUSTER_HOME, "--data"], check=False, timeout=120)
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def start(*, nodes: int) -> None:
    """Whatever of it does not run."""
    environ = {**os.environ, "NODES": str(nodes)}
    up = [SCRIPTS / "up", CLUSTER_HOME, PROGRAMS]
    subprocess.run(up, env=environ, check=True, capture_output=True, timeout=180)


def inspected(image: str) -> dict[str, Any]:
    """What Docker says of an image."""
    done = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def pod_image() -> str:
    """As `image_of`, of pods."""
    return IMAGE or image_of("pod")


def image_of(what: str) -> str:
    """The image of deploy/<what>.Dockerfile, built and on every node of a cluster of this machine's own."""
    name = images.image_of(what)
    if IMAGE:
        return name
    image, made = f"docker.io/library/{name}", inspected(name)["Id"].removeprefix("sha256:")
    for socket in sorted(Path("/run").glob("slipway-containerd*/containerd.sock")):
        ctr = ["ctr", "-a", str(socket), "-n", "k8s.io", "images"]
        # A gigabyte, copied onto each node: not for nothing.
        if made not in subprocess.run([*ctr, "ls", f"name=={image}"], capture_output=True, text=True).stdout:
            with subprocess.Popen(["docker", "save", name], stdout=subprocess.PIPE) as saving:
                load = [*ctr, "import", "-"]
                subprocess.run(load, stdin=saving.stdout, check=True, capture_output=True, timeout=600)
            subprocess.run([*ctr, "label", image, f"slipway/id={made}"], check=True, capture_output=True)
    return image


def _answers(kubeconfig: Path) -> bool:
    if not kubeconfig.exists():
        return False
    command = [str(PROGRAMS / "kubectl"), "--kubeconfig", str(kubeconfig), "get", "--raw", "/readyz"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
