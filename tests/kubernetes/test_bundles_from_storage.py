"""Pods that fetch their bundle from a real S3, in a namespace that enforces the "restricted" standard."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from model_store.types import Bundle
from serving.platforms.base import DeploymentPhase
from serving.platforms.kubernetes.platform import KubernetesPlatform
from tests.contract.platform_contract import applied, wait_for, wait_until_ready
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.conftest import Bucket, MakePlatform

pytestmark = pytest.mark.kubernetes

MakeBundle = Callable[..., Bundle]
ROW = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}


@pytest.fixture(scope="module")
def namespace(cluster: Cluster, bucket: Bucket) -> Iterator[str]:
    with cluster.namespace(enforce="restricted") as name:
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "storage", "namespace": name}}
        cluster.apply({**secret, "stringData": bucket.environment})
        yield name


@pytest.fixture
def platform(make_platform: MakePlatform, bucket: Bucket) -> Iterator[KubernetesPlatform]:
    made = make_platform(bundles={"url": bucket.url, "secret": "storage"})
    yield made
    for ref in made.deployments():
        made.retire(ref)


def test_a_pod_fetches_its_bundle_and_serves_it(
    bucket: Bucket, platform: KubernetesPlatform, make_servable: MakeBundle
) -> None:
    bundle = make_servable("fetched")
    bucket.publish(bundle)
    (endpoint,) = wait_until_ready(platform, applied(platform, bundle)).endpoints
    answer = httpx.post(f"http://{endpoint}/v2/models/fetched/infer", json=ROW)
    assert answer.status_code == 200
    assert answer.json()["model_version"] == "1"


def test_a_bundle_that_storage_does_not_have_fails_at_once_and_is_named(
    platform: KubernetesPlatform, make_servable: MakeBundle
) -> None:
    bundle = make_servable("unpublished")
    ref = applied(platform, bundle)
    status = wait_for(platform, ref, lambda status: status.phase is DeploymentPhase.FAILED)
    assert "the fetching of its bundle ended with exit code 21" in status.reason
    assert bundle.id in status.reason


def test_another_bundle_under_this_id_is_not_served(
    bucket: Bucket, platform: KubernetesPlatform, make_servable: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_servable("swapped")
    shutil.copytree(bundle.path, tmp_path / "other")
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    manifest["serving"]["finite_outputs"] = False
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    assert bucket.shared.put_bundle(bundle.id, tmp_path / "other", replacing=False)
    ref = applied(platform, bundle)
    status = wait_for(platform, ref, lambda status: status.phase is DeploymentPhase.FAILED)
    assert "exit code 21" in status.reason
    assert status.endpoints == ()


def test_storage_that_is_away_is_waited_for_and_what_is_wrong_is_said(
    cluster: Cluster, bucket: Bucket, namespace: str, make_platform: MakePlatform, make_servable: MakeBundle
) -> None:
    away = {**bucket.environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "away", "namespace": namespace}}
    cluster.apply({**secret, "stringData": away})
    platform = make_platform(bundles={"url": bucket.url, "secret": "away"})
    ref = applied(platform, make_servable("away"))
    status = wait_for(platform, ref, lambda status: "exit code 22" in status.reason)
    assert status.phase is DeploymentPhase.IN_PROGRESS
    platform.retire(ref)


def test_a_secret_that_is_not_there_is_named(
    bucket: Bucket, make_platform: MakePlatform, make_servable: MakeBundle
) -> None:
    platform = make_platform(bundles={"url": bucket.url, "secret": "forgotten"})
    ref = applied(platform, make_servable("secretless"))
    status = wait_for(platform, ref, lambda status: 'secret "forgotten" not found' in status.reason)
    assert status.phase is DeploymentPhase.IN_PROGRESS
    platform.retire(ref)


def test_a_second_pod_of_a_node_fetches_nothing_again(
    cluster: Cluster, bucket: Bucket, make_platform: MakePlatform, make_servable: MakeBundle
) -> None:
    """Its files are gone from storage by then, which only a pod that fetches them again would notice."""
    cache = cluster.shared / "cache"
    cache.mkdir()
    os.chown(cache, 10001, 10001)
    node = cluster.get("nodes")["items"][0]["metadata"]["labels"]["kubernetes.io/hostname"]
    with cluster.namespace() as open_namespace:
        secret = {"name": "storage", "namespace": open_namespace}
        cluster.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": secret, "stringData": bucket.environment}
        )
        platform = make_platform(
            namespaces=[open_namespace],
            bundles={"url": bucket.url, "secret": "storage"},
            bundle_cache={"host_path": str(cache)},
            defaults={"node_selector": {"kubernetes.io/hostname": node}},
        )
        bundle = make_servable("cached")
        bucket.publish(bundle)
        ref = applied(platform, bundle)
        wait_until_ready(platform, ref)
        storage = bucket.shared.storage
        for each in [*storage.list(f"bundles/{bundle.id}/files/")]:
            storage.delete(each.key)
        applied(platform, bundle, replicas=2)
        assert len(wait_until_ready(platform, ref).endpoints) == 2
        platform.retire(ref)
