"""What the gateway says of itself at `/v2/health/ready`: whether every model can be answered for."""

from __future__ import annotations

from itertools import count

import pytest

from serving.types import ALL_STABLE, Slot, TrafficSplit
from tests.unit.serving.gateway_process import Gateway
from tests.unit.serving.upstream import Pods, deployment

READY = "/v2/health/ready"
names = (f"ready{number}" for number in count())


def serve(gateway: Gateway, pods: Pods, replicas: int = 1) -> str:
    name = next(names)
    stable = deployment(name, 1, *(pods.start(name) for _ in range(replicas)))
    gateway.router.write(name, ALL_STABLE, stable=stable, candidate=None, at=0)
    gateway.wait_until_served_by(name, name)
    return name


def says(gateway: Gateway, status: int) -> None:
    gateway.wait(lambda: gateway.client.get(READY).status_code == status, seconds=20)


def test_the_gateway_is_ready_while_each_model_has_a_pod_that_is(gateway: Gateway, pods: Pods) -> None:
    serve(gateway, pods, replicas=2)
    serve(gateway, pods)
    says(gateway, 200)
    one, other, alone = pods.all
    one.ready = False
    gateway.wait(lambda: healthy(gateway) == 2, seconds=20)
    assert gateway.client.get(READY).status_code == 200
    other.ready = False
    says(gateway, 503)
    assert "no pod that is ready" in gateway.client.get(READY).json()["error"]
    assert gateway.client.get("/v2/health/live").status_code == 200
    other.ready = True
    says(gateway, 200)
    pods.kill(alone)
    says(gateway, 503)
    pods.revive(alone)
    says(gateway, 200)


def healthy(gateway: Gateway) -> int:
    text = gateway.client.get(f"{gateway.home.envoy_stats_url}/clusters").text
    clusters = [line.split("::")[0] for line in text.splitlines() if "::health_flags::healthy" in line]
    # Neither a service's arms nor Envoy's own admin interface.
    return sum(1 for name in clusters if "." not in name and name != "(admin)")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_it_is_read_and_nothing_else(gateway: Gateway, pods: Pods, method: str) -> None:
    serve(gateway, pods)
    says(gateway, 200)
    for path in (READY, f"{READY}?a=b", f"/{READY[1:]}"):
        answer = gateway.client.request(method, path)
        assert answer.status_code == 200
        assert method == "HEAD" or answer.json() == {"live": True, "ready": True}
    assert gateway.client.post(READY).status_code == 405
    assert gateway.client.get(f"{READY}/more").status_code == 404


def test_a_first_version_on_its_way_is_not_waited_for(gateway: Gateway, pods: Pods) -> None:
    serve(gateway, pods)
    says(gateway, 200)
    name = next(names)
    candidate = deployment(name, 1, pods.start(name), slot=Slot.GREEN)
    gateway.router.write(name, ALL_STABLE, stable=None, candidate=candidate, at=0)
    serve(gateway, pods)
    assert gateway.client.get(READY).status_code == 200
    gateway.router.write(name, TrafficSplit(0, 100), stable=None, candidate=candidate, at=1)
    gateway.wait_until_served_by(name, name)
    assert gateway.client.get(READY).status_code == 200
