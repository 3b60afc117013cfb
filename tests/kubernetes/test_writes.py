"""What the platform writes, and what it leaves to others: people, autoscalers, another Slipway."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from model_store.errors import Permanent, Retryable
from model_store.types import Bundle
from serving.home import Home, Ports
from serving.platforms.base import DeploymentPhase
from serving.platforms.kubernetes import platform as kubernetes_platform
from serving.platforms.kubernetes.platform import KubernetesPlatform
from serving.types import Slot
from tests.contract.platform_contract import applied, ref_of, wait_for, wait_until_ready
from tests.kubernetes.cluster import REPOSITORY, Cluster
from tests.kubernetes.conftest import MakePlatform

pytestmark = pytest.mark.kubernetes

MakeBundle = Callable[..., Bundle]


def uids(cluster: Cluster, namespace: str, service: str) -> set[str]:
    return {each["metadata"]["uid"] for each in cluster.objects("pods", namespace, service)}


def test_another_slipway_of_the_same_namespace_is_left_alone(
    make_platform: MakePlatform, make_servable: MakeBundle
) -> None:
    ours, bundle = make_platform(name="ours"), make_servable("shared_namespace")
    theirs = make_platform(name="theirs")
    ref, other = applied(ours, bundle), applied(theirs, bundle, Slot.GREEN)
    try:
        assert (ours.deployments(), theirs.deployments()) == ([ref], [other])
        theirs.retire(ref)
        assert ours.deployments() == [ref]
    finally:
        ours.retire(ref)
        theirs.retire(other)


def test_what_serves_is_not_restarted_when_the_installation_changes(
    cluster: Cluster,
    namespace: str,
    platform: KubernetesPlatform,
    make_platform: MakePlatform,
    make_servable: MakeBundle,
) -> None:
    """An upgrade of the controller, with other defaults, must not end every model that runs."""
    bundle = make_servable("frozen")
    ref = applied(platform, bundle)
    wait_until_ready(platform, ref)
    before = uids(cluster, namespace, "frozen")
    upgraded = make_platform(drain_seconds=9, defaults={"image": "registry.invalid/newer:2"})
    applied(upgraded, bundle, replicas=1)
    wait_until_ready(upgraded, ref)
    assert uids(cluster, namespace, "frozen") == before
    (deployment,) = cluster.objects("deployments", namespace, "frozen")
    assert deployment["status"]["observedGeneration"] == 1


def test_what_never_served_takes_what_was_corrected(
    make_platform: MakePlatform, platform: KubernetesPlatform, make_servable: MakeBundle
) -> None:
    bundle, wrong = make_servable("corrected"), make_platform(defaults={"image": "localhost/mistyped:1"})
    ref = applied(wrong, bundle)
    wait_for(wrong, ref, lambda status: status.phase is DeploymentPhase.FAILED)
    applied(platform, bundle)
    wait_until_ready(platform, ref)


def test_an_autoscalers_number_outlives_every_further_apply_and_the_next_version_begins_with_it(
    cluster: Cluster, namespace: str, platform: KubernetesPlatform, make_servable: MakeBundle
) -> None:
    asked = {"kubernetes": {"autoscaling": {"max_replicas": 3}}}
    bundle = make_servable("scaled_by_others", **asked)
    ref = applied(platform, bundle)
    wait_until_ready(platform, ref)
    (scaler,) = cluster.objects("horizontalpodautoscalers", namespace, "scaled_by_others")
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (1, 3)
    name = scaler["metadata"]["name"]
    # As the autoscaler does it, through the subresource, when there is load.
    cluster.kubectl("delete", "hpa", name, "-n", namespace)
    cluster.kubectl("scale", "deployment", name, "-n", namespace, "--replicas=2")
    applied(platform, bundle)
    assert len(wait_for(platform, ref, lambda status: len(status.endpoints) == 2).endpoints) == 2
    following = make_servable("scaled_by_others", 2, **asked)
    applied(platform, following, Slot.GREEN)
    found = cluster.objects("deployments", namespace, "scaled_by_others")
    assert {each["metadata"]["labels"]["slipway/slot"]: each["spec"]["replicas"] for each in found} == {
        "blue": 2,
        "green": 2,
    }
    # Each slot has its own, over its own pods: one's average says nothing of the other's. While both stand,
    # neither falls below what it has: all the traffic may come to either.
    assert least_by_slot(cluster, namespace, "scaled_by_others") == {"blue": 2, "green": 2}
    applied(platform, following, Slot.GREEN)
    assert least_by_slot(cluster, namespace, "scaled_by_others") == {"blue": 2, "green": 2}
    # What an autoscaler adds later is held as well, and the other version gets as many.
    cluster.kubectl("scale", "deployment", name, "-n", namespace, "--replicas=3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_platform, "HELD_EVERY_SECONDS", 0.0)
        wait_for(platform, ref, lambda status: len(status.endpoints) == 3)
        platform.status(ref_of(following, Slot.GREEN))
    assert least_by_slot(cluster, namespace, "scaled_by_others") == {"blue": 3, "green": 3}
    platform.retire(ref_of(following, Slot.GREEN))
    assert least_by_slot(cluster, namespace, "scaled_by_others")["blue"] == 1


def least_by_slot(cluster: Cluster, namespace: str, service: str) -> dict[str, int]:
    found = cluster.objects("horizontalpodautoscalers", namespace, service)
    return {each["metadata"]["labels"]["slipway/slot"]: each["spec"]["minReplicas"] for each in found}


def test_a_budget_stands_from_two_pods_on_and_goes_with_the_second(
    cluster: Cluster, namespace: str, platform: KubernetesPlatform, make_servable: MakeBundle
) -> None:
    bundle = make_servable("budgeted")
    applied(platform, bundle)
    assert cluster.objects("poddisruptionbudgets", namespace, "budgeted") == []
    applied(platform, bundle, replicas=2)
    (budget,) = cluster.objects("poddisruptionbudgets", namespace, "budgeted")
    assert budget["spec"]["maxUnavailable"] == 1
    applied(platform, bundle, replicas=1)
    assert cluster.objects("poddisruptionbudgets", namespace, "budgeted") == []


def test_what_a_person_wrote_into_our_objects_stays(
    cluster: Cluster, namespace: str, platform: KubernetesPlatform, make_servable: MakeBundle
) -> None:
    bundle = make_servable("annotated")
    ref = applied(platform, bundle)
    (deployment,) = cluster.objects("deployments", namespace, "annotated")
    cluster.kubectl("annotate", "deployment", deployment["metadata"]["name"], "-n", namespace, "team=risk")
    applied(platform, bundle, replicas=2)
    (deployment,) = cluster.objects("deployments", namespace, "annotated")
    assert deployment["metadata"]["annotations"]["team"] == "risk"
    platform.retire(ref)


def test_a_namespace_that_specs_may_not_name_is_refused(
    platform: KubernetesPlatform, make_servable: MakeBundle
) -> None:
    bundle = make_servable("elsewhere", kubernetes={"namespace": "kube-system"})
    with pytest.raises(Permanent, match="this one names `kube-system`"):
        applied(platform, bundle)


def test_a_namespace_that_is_not_there_is_said(
    make_platform: MakePlatform, make_servable: MakeBundle
) -> None:
    with pytest.raises(Permanent, match="no-such-namespace"):
        applied(make_platform(namespaces=["no-such-namespace"]), make_servable("nowhere"))


def login(cluster: Cluster, namespace: str, rules: list[dict[str, Any]], folder: Path) -> Path:
    """A kubeconfig of a service account with these rights and no others."""
    named = {"name": "slipway", "namespace": namespace}
    group = "rbac.authorization.k8s.io"
    cluster.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": named, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": named,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "slipway"},
            "subjects": [{"kind": "ServiceAccount", **named}],
        },
    )
    token = cluster.kubectl("create", "token", "slipway", "-n", namespace).strip()
    config = yaml.safe_load(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "yaml"))
    config["users"] = [{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]
    (folder / "limited.kubeconfig").write_text(json.dumps(config))
    return folder / "limited.kubeconfig"


def documented_rules() -> list[dict[str, Any]]:
    """Those of the Role in docs/kubernetes.md."""
    text = (REPOSITORY / "docs" / "kubernetes.md").read_text()
    blocks = [dedent(block.partition("```")[0].rstrip()) for block in text.split("```yaml\n")[1:]]
    (role,) = [each for block in blocks for each in yaml.safe_load_all(block) if each.get("kind") == "Role"]
    return list(role["rules"])


def test_the_documented_rights_are_enough(
    cluster: Cluster, make_platform: MakePlatform, make_servable: MakeBundle, tmp_path: Path
) -> None:
    with cluster.namespace() as namespace:
        kubeconfig = login(cluster, namespace, documented_rules(), tmp_path)
        limited = make_platform(namespaces=[namespace], kubeconfig=str(kubeconfig))
        bundle = make_servable("limited", kubernetes={"autoscaling": {"max_replicas": 3}})
        ref = applied(limited, bundle, replicas=2)
        wait_until_ready(limited, ref)
        applied(limited, bundle, replicas=2)
        limited.retire(ref)
        assert limited.deployments() == []


@pytest.mark.parametrize("resource", ["deployments", "replicasets", "pods", "poddisruptionbudgets"])
def test_a_right_that_is_missing_is_named_before_anything_is_done(
    cluster: Cluster, make_platform: MakePlatform, make_servable: MakeBundle, tmp_path: Path, resource: str
) -> None:
    with cluster.namespace() as namespace:
        rules = [
            {**rule, "resources": [each for each in rule["resources"] if each != resource] or ["none"]}
            for rule in documented_rules()
        ]
        limited = make_platform(
            namespaces=[namespace], kubeconfig=str(login(cluster, namespace, rules, tmp_path))
        )
        with pytest.raises(Permanent, match=rf"{namespace}: .*list.* {resource}|{namespace}: .* {resource}"):
            applied(limited, make_servable(f"without_{resource}"))


def test_without_the_right_to_read_events_only_words_are_missing(
    cluster: Cluster, make_platform: MakePlatform, make_servable: MakeBundle, tmp_path: Path
) -> None:
    with cluster.namespace() as namespace:
        rules = [rule for rule in documented_rules() if "events" not in rule["resources"]]
        kubeconfig = login(cluster, namespace, rules, tmp_path)
        limited = make_platform(namespaces=[namespace], kubeconfig=str(kubeconfig))
        ref = applied(limited, make_servable("no_events"))
        wait_until_ready(limited, ref)
        limited.retire(ref)


def test_an_api_server_that_is_away_is_worth_another_try(
    cluster: Cluster, make_platform: MakePlatform, make_servable: MakeBundle, tmp_path: Path
) -> None:
    config = yaml.safe_load(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "yaml"))
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "away.kubeconfig").write_text(json.dumps(config))
    away = make_platform(kubeconfig=str(tmp_path / "away.kubeconfig"))
    for ask in (lambda: away.deployments(), lambda: away.status(ref_of(make_servable("away")))):
        with pytest.raises(Retryable, match="does not answer"):
            ask()


def test_credentials_that_the_cluster_does_not_know_are_said(
    cluster: Cluster, make_platform: MakePlatform, tmp_path: Path
) -> None:
    config = yaml.safe_load(cluster.kubectl("config", "view", "--raw", "--flatten", "-o", "yaml"))
    config["users"][0]["user"] = {"token": "expired"}
    (tmp_path / "expired.kubeconfig").write_text(json.dumps(config))
    with pytest.raises(Permanent, match="does not know who we are"):
        make_platform(kubeconfig=str(tmp_path / "expired.kubeconfig")).deployments()


def test_a_kubeconfig_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "kubernetes.yaml").write_text(f"kubeconfig: {tmp_path}/none")
    with pytest.raises(Permanent, match="which cluster is meant is not said"):
        KubernetesPlatform(Home(tmp_path, Ports()), environ={}).deployments()


def test_what_the_cluster_refuses_ends_nothing_that_stands_in_its_slot(
    platform: KubernetesPlatform, make_servable: MakeBundle
) -> None:
    ref = applied(platform, make_servable("judged"))
    wait_until_ready(platform, ref)
    # As a device is called, but that a vendor's name may not begin with a dash.
    impossible = make_servable("judged", 2, kubernetes={"resources": {"limits": {"-vendor/gpu": 1}}})
    with pytest.raises(Permanent, match="the cluster refuses it"):
        applied(platform, impossible)
    assert platform.deployments("judged") == [ref]
    assert platform.status(ref).is_ready
