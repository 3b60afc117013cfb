"""The Helm chart: what it makes of many values, judged by the cluster and by what the code asks for."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_store.installation import ROOT as REPOSITORY
from serving.platforms.kubernetes.api import GROUPS
from serving.platforms.kubernetes.installation import Installation
from serving.platforms.kubernetes.rights import FOR_LEASES, FOR_STAGES, NEEDED
from tests.kubernetes.cluster import PROGRAMS, Cluster

pytestmark = [pytest.mark.kubernetes]

CHART = REPOSITORY / "deploy" / "helm" / "slipway"
HELM = shutil.which("helm") or str(PROGRAMS / "helm")
URL = "storage.url=s3://models/production"
AIRFLOW = ("airflow.serviceAccounts[0].name=worker", "airflow.serviceAccounts[0].namespace=airflow")
TWO = ("ledger.databaseSecret.name=ledger", "trustedKeysSecret=theirs")
MATRIX: dict[str, tuple[str, ...]] = {
    "least": (),
    "airflow": AIRFLOW,
    "redis": ("redis.enabled=true", "redis.image=redis:7"),
    "a redis elsewhere": ("redis.urlSecret.name=cache", "redis.urlSecret.key=address"),
    "one envoy": ("gateway.replicas=1",),
    "a registry of one's own": ("images.registry=registry.example/ml", "images.pullSecrets[0]=registry"),
    "no policies": ("networkPolicies.enabled=false",),
    "everything of one's own": (
        "tokensSecret=ours",
        "controller.home.existingClaim=ours",
        "storage.secret=s3",
    ),
    "keys of those who sign": ("trustedKeysSecret=theirs",),
    "two controllers": TWO,
    "an mlflow": ("mlflow.url=http://mlflow.airflow:5000",),
    "a gpu for gates": ("builds.stages.gate.resources.limits.nvidia\\.com/gpu=1",),
    "a public address": ("gateway.service.type=LoadBalancer", "gateway.service.annotations.a=b"),
}


@pytest.fixture(scope="module", autouse=True)
def helm() -> str:
    if not Path(HELM).exists():
        pytest.skip("there is no helm: put it on PATH")
    return HELM


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=120, check=False)


def template(*values: str, name: str = "slipway", more: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    sets = [word for value in (URL, *values) for word in ("--set", value)]
    done = run("template", name, str(CHART), "-n", "here", "--kube-version", "1.34.0", *sets, *more)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def of(made: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in made if each["kind"] == kind}


def test_nothing_is_found_fault_with() -> None:
    done = run("lint", str(CHART), "--strict", "--set", URL, "--kube-version", "1.34.0")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_the_cluster_takes_what_is_made_of_any_values(cluster: Cluster, values: tuple[str, ...]) -> None:
    made = template(*values)
    listed = {"apiVersion": "v1", "kind": "List", "items": made}
    cluster.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-n", "default", "-f", "-",
        input=json.dumps(listed).replace('"namespace": "here"', '"namespace": "default"'),
    )  # fmt: skip


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_the_settings_it_writes_are_read_by_the_platform(values: tuple[str, ...]) -> None:
    said = yaml.safe_load(of(template(*values), "ConfigMap")["slipway"]["data"]["kubernetes.yaml"])
    read = Installation.model_validate(said)
    assert read.namespaces == ("here",)
    assert read.builds.image is not None
    assert read.defaults.image is not None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("storage.url=https://a", "storage"),
        ("storage.url=s3://key:secret@models", "storage"),
        ("gateway.replicas=none", "replicas"),
        ("gateways.replicas=3", "gateways"),
        ("images.pullPolicy=Sometimes", "pullPolicy"),
    ],
)
def test_what_is_no_value_is_refused_and_named(value: str, said: str) -> None:
    done = run("template", "slipway", str(CHART), "--kube-version", "1.34.0", "--set", value)
    assert done.returncode != 0
    assert said in done.stderr


def test_without_a_bucket_it_says_how_to_name_one() -> None:
    done = run("template", "slipway", str(CHART), "--kube-version", "1.34.0")
    assert "--set storage.url=s3://BUCKET/PREFIX" in done.stderr


def test_two_controllers_need_to_be_told_whose_signatures_are_good() -> None:
    done = run("template", "slipway", str(CHART), "--kube-version", "1.34.0", "--set", URL, "--set", TWO[0])
    assert "set trustedKeysSecret" in done.stderr


def test_two_controllers_share_no_volume_and_envoys_know_both() -> None:
    made = template(*TWO)
    deployments = of(made, "Deployment")
    controller = deployments["slipway-controller"]["spec"]
    assert controller["replicas"] == 2
    assert {"name": "home", "emptyDir": {}} in controller["template"]["spec"]["volumes"]
    assert not of(made, "PersistentVolumeClaim")
    (envoy,) = deployments["slipway-gateway"]["spec"]["template"]["spec"]["containers"]
    (servers,) = [each["value"] for each in envoy["env"] if each["name"] == "SLIPWAY_ADS_SERVERS"]
    assert servers == "slipway-controllers:8486"
    assert of(made, "Service")["slipway-controllers"]["spec"]["clusterIP"] == "None"
    assert of(made, "PodDisruptionBudget")["slipway-controller"]


def test_the_controller_is_told_where_mlflow_is() -> None:
    (controller,) = of(template("mlflow.url=http://mlflow:5000"), "Deployment")["slipway-controller"]["spec"][
        "template"
    ]["spec"]["containers"]
    assert {"name": "SLIPWAY_MLFLOW_URL", "value": "http://mlflow:5000"} in controller["env"]


def test_rights_are_those_that_the_code_asks_for_and_no_others() -> None:
    roles = of(template(*AIRFLOW), "Role")
    assert rights(roles["slipway-models"]) == asked(NEEDED) | {("events", "list"), ("pods", "watch")}
    assert rights(roles["slipway-lease"]) == asked(FOR_LEASES)
    assert rights(roles["slipway-stages"]) == asked(FOR_STAGES) | {("events", "list")}
    assert not of(template(*AIRFLOW), "ClusterRole")
    assert not of(template(), "Role").keys() & {"slipway-stages"}


def rights(role: dict[str, Any]) -> set[tuple[str, str]]:
    return {(what, verb) for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]}


def asked(needed: dict[str, tuple[str, ...]]) -> set[tuple[str, str]]:
    return {(GROUPS[kind][1], verb) for kind, verbs in needed.items() for verb in verbs}


def test_two_slipways_of_one_namespace_share_nothing() -> None:
    one, other = template(*AIRFLOW), template(*AIRFLOW, name="other")
    named = [{(each["kind"], each["metadata"]["name"]) for each in made} for made in (one, other)]
    assert named[0] & named[1] == set()
    for policy in of(other, "NetworkPolicy").values():
        assert '"other"' in json.dumps(policy["spec"]["podSelector"])


def test_every_pod_keeps_the_restricted_standard() -> None:
    for each in of(template("redis.enabled=true", "redis.image=redis:7"), "Deployment").values():
        spec = each["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        for container in spec["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"]


def test_stages_are_asked_by_nobody_and_models_by_gateway_and_controller_alone() -> None:
    policies = of(template(), "NetworkPolicy")
    stages, models = policies["slipway-stages"]["spec"], policies["slipway-models"]["spec"]
    assert "ingress" not in stages
    assert set(stages["policyTypes"]) == {"Ingress", "Egress"}
    (rule,) = models["ingress"]
    parts = {one["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for one in rule["from"]}
    assert parts == {"gateway", "controller"}
    assert all(
        rule.get("from", [1]) for policy in policies.values() for rule in policy["spec"].get("ingress", [])
    )


def test_prometheus_is_told_where_it_is_there() -> None:
    kinds = ("monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PrometheusRule")
    there = template(more=tuple(word for kind in kinds for word in ("--api-versions", kind)))
    assert "slipway-controller" in of(there, "ServiceMonitor")
    assert {"slipway-gateway", "slipway-models"} <= of(there, "PodMonitor").keys()
    assert of(there, "PrometheusRule")["slipway"]["spec"]["groups"]
    assert not of(template(), "ServiceMonitor")


def test_alerts_are_those_of_the_stack() -> None:
    for name in ("alerts.yml", "recording.yml"):
        own = REPOSITORY / "serving" / "monitoring" / "rules" / name
        assert (CHART / "files" / name).read_bytes() == own.read_bytes()
