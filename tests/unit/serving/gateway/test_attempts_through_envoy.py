"""What is counted of answers that break, clients that are slow or give up, and pods that hang. Real Envoy."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import count

import httpx
import pytest

from serving.metrics.base import EndpointCounters
from serving.metrics.envoy import EnvoyAdmin
from serving.types import RouteSettings, Slot, TrafficSplit
from tests.unit.serving.gateway_process import Gateway
from tests.unit.serving.upstream import LARGE, Pods, Upstream, deployment

SETTINGS = RouteSettings(timeout_ms=300, latency_objective_ms=150)
PATIENT = RouteSettings(timeout_ms=3000, latency_objective_ms=150)
ONCE = {"x-slipway-idempotent": "false"}
names = (f"attempts{number}" for number in count())


class Service:
    """A new service; both pods have answered health checks. Counts are the candidate's since then."""

    def __init__(
        self,
        gateway: Gateway,
        pods: Pods,
        *,
        name: str = "",
        weight: float = 100,
        settings: RouteSettings = SETTINGS,
    ) -> None:
        self.gateway, self.name = gateway, name or next(names)
        self.stable, self.candidate = pods.start("stable"), pods.start("candidate")
        gateway.router.write(
            self.name,
            TrafficSplit(100 - weight, weight),
            stable=deployment(self.name, 1, self.stable),
            candidate=deployment(self.name, 2, self.candidate, slot=Slot.GREEN),
            at=0,
            settings=settings,
        )
        gateway.wait(lambda: len(self._seen()) == 2 and all(each.healthy for each in self._seen().values()))
        gateway.wait(lambda: gateway.infer(self.name).status_code == 200)
        self.before = self.counted(self.candidate)

    def _seen(self) -> dict[object, EndpointCounters]:
        with closing(EnvoyAdmin(self.gateway.home.envoy_stats_url, timeout_seconds=10)) as admin:
            return {**admin.counters().get(self.name, {})}

    def counted(self, pod: Upstream) -> EndpointCounters:
        return self._seen()[pod.endpoint]

    def since(self) -> tuple[int, int, int]:
        """Requests, errors and slow answers of the candidate, once Envoy has logged all attempts."""
        time.sleep(0.2)
        now = self.counted(self.candidate)
        return (
            now.requests - self.before.requests,
            now.errors - self.before.errors,
            now.slow - self.before.slow,
        )

    def ask(self, times: int, *, seconds: float = 10, headers: dict[str, str] | None = None) -> None:
        """At once, whatever comes of it."""

        def one(_: int) -> None:
            with suppress(httpx.HTTPError):
                httpx.post(
                    f"{self.gateway.home.gateway_url}/v2/models/{self.name}/infer",
                    content=b"{}",
                    headers=headers,
                    timeout=seconds,
                )

        with ThreadPoolExecutor(times) as pool:
            list(pool.map(one, range(times)))

    def connect(self, length: int) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.gateway.home.ports.gateway), timeout=10)
        head = f"POST /v2/models/{self.name}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
        connection.sendall(head.encode())
        return connection


@pytest.mark.parametrize("headers", [{}, ONCE])
@pytest.mark.parametrize("fault", ["half", "half_chunk", "stalled"])
def test_an_answer_that_breaks_or_stalls_is_one_request_and_one_error(
    gateway: Gateway, pods: Pods, fault: str, headers: dict[str, str]
) -> None:
    service = Service(gateway, pods)
    service.candidate.fault = fault
    service.ask(4, headers=headers)
    assert service.since()[:2] == (service.candidate.faulty,) * 2
    assert service.candidate.faulty > 0


@pytest.mark.parametrize("fault", ["error", "reset", "hang"])
def test_a_failure_that_envoy_counts_is_not_counted_again(gateway: Gateway, pods: Pods, fault: str) -> None:
    service = Service(gateway, pods)
    service.candidate.fault = fault
    service.ask(4, headers=ONCE)
    assert service.since()[:2] == (service.candidate.faulty,) * 2
    assert service.candidate.faulty > 0


def test_a_client_that_sends_slowly_is_not_the_pods_slowness(gateway: Gateway, pods: Pods) -> None:
    service = Service(gateway, pods, settings=PATIENT)
    with service.connect(4) as connection:
        for _ in range(4):
            connection.sendall(b"x")
            time.sleep(0.1)
        assert connection.recv(20).startswith(b"HTTP/1.1 200")
    assert service.since() == (1, 0, 0)


def test_a_client_that_reads_slowly_is_not_the_pods_slowness(gateway: Gateway, pods: Pods) -> None:
    service = Service(gateway, pods, settings=PATIENT)
    service.candidate.fault = "large"
    with service.connect(2) as connection:
        connection.sendall(b"{}")
        time.sleep(0.5)
        read = 0
        while read < LARGE:
            read += len(connection.recv(1 << 20))
    assert service.since() == (1, 0, 0)


def test_a_slow_pod_is_slow(gateway: Gateway, pods: Pods) -> None:
    service = Service(gateway, pods)
    service.candidate.fault = "slow"
    service.ask(3)
    assert service.since() == (3, 0, 3)


def test_an_answer_that_ends_late_is_slow_and_no_failure(gateway: Gateway, pods: Pods) -> None:
    service = Service(gateway, pods)
    service.candidate.fault = "trickle"
    assert gateway.infer(service.name).text == "{}"
    assert service.since() == (1, 0, 1)


@pytest.mark.parametrize("name", ["dot.at.the.end.", "a.host.b", "slipway.slow.service.a"])
def test_it_is_counted_whatever_the_service_is_called(gateway: Gateway, pods: Pods, name: str) -> None:
    service = Service(gateway, pods, name=name)
    service.candidate.fault = "slow"
    service.ask(3)
    assert service.since() == (3, 0, 3)


@pytest.mark.parametrize("headers", [{}, ONCE])
def test_a_request_its_client_gave_up_on_late_counts_as_a_slow_one(
    gateway: Gateway, pods: Pods, headers: dict[str, str]
) -> None:
    service = Service(gateway, pods, settings=PATIENT)
    service.candidate.fault = "hang"
    service.ask(3, seconds=0.4, headers=headers)
    assert service.since() == (3, 0, 3)


def test_who_gives_up_sooner_or_before_all_is_sent_is_nobodys_evidence(gateway: Gateway, pods: Pods) -> None:
    service = Service(gateway, pods, settings=PATIENT)
    service.candidate.fault = "hang"
    service.ask(2, seconds=0.05)
    with service.connect(4) as connection:
        connection.sendall(b"x")
        time.sleep(0.4)
    assert service.since() == (0, 0, 0)


def test_a_body_that_stalls_until_its_client_gives_up_is_slow(gateway: Gateway, pods: Pods) -> None:
    service = Service(gateway, pods, settings=PATIENT)
    service.candidate.fault = "stalled"
    service.ask(3, seconds=0.4)
    assert service.since() == (3, 0, 3)


def test_clients_do_not_see_what_the_gateway_noted(gateway: Gateway, pods: Pods) -> None:
    headers = gateway.infer(Service(gateway, pods).name).headers
    assert not {"x-slipway-waited", "x-slipway-sent"} & set(headers)
