"""How long answers took, as a real Envoy tells it of each endpoint."""

from __future__ import annotations

from contextlib import closing

from serving.metrics.envoy import EnvoyAdmin
from serving.metrics.latency import Buckets, quantile_ms
from tests.unit.serving.gateway.test_attempts_through_envoy import SETTINGS, Service
from tests.unit.serving.gateway_process import Gateway
from tests.unit.serving.upstream import Pods, Upstream


def seen(service: Service, pod: Upstream) -> Buckets:
    with closing(EnvoyAdmin(service.gateway.home.envoy_stats_url, timeout_seconds=10)) as admin:
        return admin.latencies([service.name]).get(service.name, {}).get(pod.endpoint, {})


def test_each_arm_has_its_own_times_and_one_that_hangs_does_not_look_quick(
    gateway: Gateway, pods: Pods
) -> None:
    service = Service(gateway, pods, name="a.b", weight=50)
    service.candidate.fault, service.candidate.every = "hang", 2
    for _ in range(40):
        gateway.infer(service.name)
    hung = service.candidate.faulty
    assert hung
    gateway.wait(lambda: sum(seen(service, service.candidate).values()) >= service.candidate.answered)
    stable, candidate = seen(service, service.stable), seen(service, service.candidate)
    assert sum(stable.values()) >= service.stable.answered
    quick, slow = quantile_ms(stable, 0.5), quantile_ms(candidate, 0.99)
    assert quick is not None
    assert slow is not None
    assert quick < SETTINGS.latency_objective_ms < slow


def test_a_service_that_nobody_asked_has_none(gateway: Gateway) -> None:
    with closing(EnvoyAdmin(gateway.home.envoy_stats_url)) as admin:
        assert admin.latencies(["nobody", "no(body"]) == {}
