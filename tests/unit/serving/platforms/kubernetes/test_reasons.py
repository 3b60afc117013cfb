"""Sentences as schedulers, kubelets, runtimes and admission really say them."""

from __future__ import annotations

import pytest

from serving.platforms.kubernetes.reasons import image_trouble, not_created, unschedulable


def test_a_full_cluster_says_which_resource_and_how_many_nodes_lack_it() -> None:
    said = (
        "0/5 nodes are available: 1 node(s) had untolerated taint {dedicated: web, team: a}, "
        "1 node(s) didn't match Pod's node affinity/selector, 3 Insufficient nvidia.com/gpu. "
        "no new claims to deallocate, preemption: 0/5 nodes are available: "
        "2 Preemption is not helpful for scheduling, "
        "3 No preemption victims found for incoming pod."
    )
    found = unschedulable("fraud-1", said, {"nvidia.com/gpu": "2", "cpu": "1"})
    assert found.reason == (
        "none of 5 nodes can take the pod fraud-1: 1 with a taint that it does not tolerate "
        "{dedicated: web, team: a}, 1 without the labels of its node_selector, "
        "3 lack nvidia.com/gpu (it asks for 2)"
    )
    assert not found.is_final


@pytest.mark.parametrize(
    "said",
    [
        "",
        'running PreBind plugin "VolumeBinding": binding volumes: timed out',
        "no nodes available to schedule pods",
    ],
)
def test_a_sentence_of_the_scheduler_that_is_not_known_is_handed_on(said: str) -> None:
    found = unschedulable("fraud-1", said, {})
    assert said in found.reason
    assert not found.is_final


@pytest.mark.parametrize(
    "said",
    [
        "failed to pull and unpack image: registry.example/a:1: not found",
        'rpc error: code = NotFound desc = "manifest unknown: manifest unknown"',
        "pull access denied, repository does not exist or may require authorization",
        "failed to authorize: failed to fetch anonymous token: unexpected status: 401 Unauthorized",
        "no match for platform in manifest: not found",
    ],
)
def test_an_image_that_is_not_there_or_not_for_us_is_final(said: str) -> None:
    assert image_trouble("registry.example/a:1", said).is_final


@pytest.mark.parametrize(
    "said",
    [
        "pull QPS exceeded",
        "toomanyrequests: You have reached your unauthenticated pull rate limit: access denied",
        'failed to do request: Head "https://r/v2/a/manifests/1": dial tcp: lookup r: no such host',
        "unexpected status from HEAD request: 503 Service Unavailable",
        "net/http: TLS handshake timeout",
        "registry.example/not-found:403 has something that nobody has seen before",
        "some sentence that nobody has seen before",
        "",
    ],
)
def test_a_registry_that_is_away_or_busy_is_waited_for(said: str) -> None:
    found = image_trouble("registry.example/not-found:403", said)
    assert not found.is_final
    assert "registry.example/not-found:403" in found.reason


def test_a_full_quota_says_by_how_much_and_is_waited_for() -> None:
    said = (
        'pods "fraud-7d4" is forbidden: exceeded quota: compute, '
        "requested: requests.cpu=500m,requests.memory=2Gi, "
        "used: requests.cpu=3800m,requests.memory=1Gi, limited: requests.cpu=4,requests.memory=8Gi"
    )
    found = not_created(said)
    assert found.reason == (
        "the quota compute is full: requests.cpu: 3800m of 4 used, a pod asks for 500m, 0.3 too much"
    )
    assert not found.is_final


def test_a_pod_larger_than_the_whole_quota_is_not_waited_for() -> None:
    said = (
        'pods "a" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=4, '
        "used: requests.nvidia.com/gpu=0, limited: requests.nvidia.com/gpu=2"
    )
    found = not_created(said)
    assert found.is_final
    assert "requests.nvidia.com/gpu: 0 of 2 used, a pod asks for 4, 2 too much" in found.reason


@pytest.mark.parametrize(
    "said",
    [
        'admission webhook "policy.example" denied the request: images must come from our registry',
        'pods "a" is forbidden: violates PodSecurity "restricted:latest": unrestricted capabilities',
        'pods "a" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi',
        'pods "a" is forbidden: no PriorityClass with name gold was found',
        'pods "a" is forbidden: error looking up service account x/y: serviceaccount "y" not found',
        'pods "a" is forbidden: failed quota: q: must specify limits.cpu for: pod',
    ],
)
def test_what_a_rule_of_the_cluster_forbids_is_final(said: str) -> None:
    found = not_created(said)
    assert found.is_final
    assert 'pods "a" is forbidden' not in found.reason


def test_a_webhook_that_is_away_is_waited_for() -> None:
    said = 'Internal error occurred: failed calling webhook "policy.example": connection refused'
    assert not not_created(said).is_final
