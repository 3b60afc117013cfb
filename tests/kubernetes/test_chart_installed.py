"""The Helm chart on a real cluster: installed, upgraded while it serves, and taken away again."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes import cluster as clusters
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.test_chart import CHART, HELM

pytestmark = [pytest.mark.kubernetes, pytest.mark.story, pytest.mark.timeout(900)]

LITTLE = "{requests: {cpu: 50m, memory: 128Mi}, limits: {memory: 512Mi}}"


class Chart:
    """A release of the chart in a namespace of its own."""

    def __init__(self, cluster: Cluster, namespace: str, image: str, home: Path) -> None:
        self.cluster, self.namespace = cluster, namespace
        registry, _, name = image.rpartition("/")
        self.values = home / "values.yaml"
        self.values.write_text(
            f"images: {{registry: {registry}, tag: {name.partition(':')[2]}, pullPolicy: Never}}\n"
            "storage: {url: s3://models/production}\n"
            f"controller: {{home: {{existingClaim: home}}, resources: {LITTLE}}}\n"
            f"gateway: {{resources: {LITTLE}}}\n"
            "airflow: {serviceAccounts: [{name: worker}]}\n"
            # A cluster that scripts start has its name server on the machine, not in a pod.
            "networkPolicies: {dns: {to: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [53, 1053]}}\n"
        )

    def helm(self, *arguments: str) -> str:
        environ = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        done = subprocess.run(
            [HELM, *arguments, "-n", self.namespace],
            env=environ, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def install(self, *values: str) -> str:
        sets = [word for value in values for word in ("--set", value)]
        return self.helm("upgrade", "--install", "slipway", str(CHART), "-f", str(self.values), *sets)

    def ready(self) -> None:
        wait_until(self.is_ready, "controller and gateway are ready")

    def is_ready(self) -> bool:
        found = [each for each in self.named("deployments").values() if each["status"].get("replicas")]
        return len(found) == 2 and all(_is_ready(each) for each in found)

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments)

    def pods(self, component: str) -> set[str]:
        """Uids of those that are not ending."""
        label = f"app.kubernetes.io/component={component}"
        found = self.cluster.get("pods", "-n", self.namespace, "-l", label)["items"]
        return {each["metadata"]["uid"] for each in found if "deletionTimestamp" not in each["metadata"]}

    def named(self, kind: str) -> dict[str, Any]:
        found = self.cluster.get(kind, "-n", self.namespace)["items"]
        return {each["metadata"]["name"]: each for each in found}


@pytest.fixture(scope="module")
def chart(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chart]:
    if not Path(HELM).exists():
        pytest.skip("there is no helm: put it on PATH")
    if not cluster.is_ours:
        pytest.skip("a volume for the controller is a folder that every node sees")
    images = [clusters.image_of(name) for name in ("controller", "gateway")]
    with cluster.namespace(enforce="restricted") as namespace:
        folder = Path(tempfile.mkdtemp(dir=cluster.shared))
        os.chown(folder, 10001, 10001)
        volume(cluster, namespace, folder)
        yield Chart(cluster, namespace, images[0], tmp_path_factory.mktemp("chart"))
        cluster.kubectl("delete", "persistentvolume", namespace, "--wait=false", check=False)


def volume(cluster: Cluster, namespace: str, folder: Path) -> None:
    kept = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    storage = {"storage": "1Gi"}
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": namespace},
            "spec": {**kept, "capacity": storage, "hostPath": {"path": str(folder)}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "home", "namespace": namespace},
            "spec": {**kept, "resources": {"requests": storage}, "volumeName": namespace},
        },
    )


def test_it_is_installed_and_says_the_next_three_commands(chart: Chart) -> None:
    said = chart.install()
    chart.ready()
    assert len(chart.pods("gateway")) == 2
    for number in ("1.", "2.", "3."):
        assert f"\n{number} " in said
    # The first of them, as it is written there.
    (first,) = [line.strip() for line in said.splitlines() if " wait --for=condition=Available" in line]
    chart.cluster.kubectl(*first.split()[1:])


def test_every_envoy_hears_of_the_controller(chart: Chart) -> None:
    def told() -> bool:
        said = chart.kubectl("exec", "deployment/slipway-controller", "--", "python", "-c", PROXIES)
        return said.split().count("SYNCED") == 2

    wait_until(told, "two Envoys are told everything")


PROXIES = (
    "from serving.composition import proxies_of; from serving.home import Home;"
    "print(*(each.state.name for each in proxies_of(Home.locate())))"
)


def test_an_upgrade_leaves_what_serves_as_it_is(chart: Chart) -> None:
    gateways, controllers = chart.pods("gateway"), chart.pods("controller")
    token = chart.named("secrets")["slipway-tokens"]["data"]
    chart.install("models.priority_class=serving")
    wait_until(lambda: not chart.pods("controller") & controllers, "another controller")
    chart.ready()
    assert chart.pods("gateway") == gateways
    assert chart.named("secrets")["slipway-tokens"]["data"] == token
    assert "serving" in chart.named("configmaps")["slipway"]["data"]["kubernetes.yaml"]


def test_a_stage_is_allowed_what_it_needs_and_airflow_no_more(chart: Chart) -> None:
    account = f"system:serviceaccount:{chart.namespace}:worker"

    def may(verb: str, what: str, *more: str) -> bool:
        asked = ("auth", "can-i", verb, what, "-n", chart.namespace, "--as", account, *more)
        return chart.cluster.kubectl(*asked, check=False).strip() == "yes"

    assert all(may(verb, "pods") for verb in ("get", "list", "create", "delete"))
    assert may("get", "pods", "--subresource=log")
    assert not may("create", "pods", "--subresource=exec")
    assert not any(may(verb, "secrets") for verb in ("get", "list", "create"))


def test_what_it_remembers_stays_when_it_is_taken_away(chart: Chart) -> None:
    chart.helm("uninstall", "slipway", "--wait")
    assert "slipway-tokens" in chart.named("secrets")
    assert "home" in chart.named("persistentvolumeclaims")
    for kind in ("deployments", "services", "networkpolicies", "roles", "rolebindings"):
        assert not chart.named(kind), kind


def _is_ready(deployment: dict[str, Any]) -> bool:
    """All of its present pods, and no others."""
    status, wanted = deployment["status"], deployment["spec"]["replicas"]
    counts = [status.get(name, 0) for name in ("readyReplicas", "updatedReplicas", "replicas")]
    return status["observedGeneration"] == deployment["metadata"]["generation"] and counts == [wanted] * 3


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.5)
