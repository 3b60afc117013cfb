from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from serving.metrics.base import EndpointCounters
from serving.metrics.envoy import EnvoyAdmin, MetricsUnavailable
from serving.types import Endpoint, RouteSettings, Slot, TrafficSplit
from tests.contract.metrics_contract import MetricsContract
from tests.unit.serving.gateway_process import Gateway, gateway_running
from tests.unit.serving.upstream import Pods, deployment, pods_running

SERVICE = "credit.risk_v2"
ENDPOINT = Endpoint("127.0.0.1", 9)


class EnvoyScene:
    """Real Envoy, two real upstreams."""

    def __init__(self, gateway: Gateway, pods: Pods) -> None:
        self.gateway, self.pods = gateway, pods
        self.stable, self.candidate = pods.start("stable"), pods.start("candidate")
        self.source = EnvoyAdmin(gateway.home.envoy_stats_url, timeout_seconds=10)
        gateway.router.write(
            SERVICE,
            TrafficSplit(50, 50),
            stable=deployment(SERVICE, 1, self.stable),
            candidate=deployment(SERVICE, 2, self.candidate, slot=Slot.GREEN),
            at=0,
            settings=RouteSettings(timeout_ms=300, latency_objective_ms=100),
        )
        for name in ("stable", "candidate"):
            gateway.wait_until_served_by(SERVICE, name)
        self.before = self._now()

    def candidate_fault(self, fault: str) -> None:
        if fault == "dead":
            self.pods.kill(self.candidate)
        self.candidate.fault = fault

    def serve(self, requests: int, status: int | None = 200) -> None:
        for _ in range(requests):
            found = self.gateway.infer(SERVICE).status_code
            assert status in (None, found)

    def stop_proxy(self) -> None:
        self.gateway.kill()

    def read(self) -> tuple[EndpointCounters, EndpointCounters]:
        now = self._now()
        return self._since(now, 0), self._since(now, 1)

    def _since(self, now: list[EndpointCounters], arm: int) -> EndpointCounters:
        before, after = self.before[arm], now[arm]
        return EndpointCounters(
            after.requests - before.requests,
            after.errors - before.errors,
            after.slow - before.slow,
            after.active,
            after.healthy,
            refused=after.refused - before.refused,
            malformed=after.malformed - before.malformed,
            repeated=after.repeated - before.repeated,
            uninformative=after.uninformative - before.uninformative,
        )

    def _now(self) -> list[EndpointCounters]:
        counters = self.source.counters()[SERVICE]
        return [counters[self.stable.endpoint], counters[self.candidate.endpoint]]


class TestEnvoyAdmin(MetricsContract):
    @pytest.fixture
    def scene(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoyScene]:
        with gateway_running(tmp_path_factory.mktemp("home")) as gateway, pods_running() as pods:
            scene = EnvoyScene(gateway, pods)
            yield scene
            scene.source.close()

    def test_preview_requests_are_nobodys_evidence(self, scene: EnvoyScene) -> None:
        scene.candidate_fault("error")
        for _ in range(5):
            answer = scene.gateway.infer(SERVICE, scene.gateway.preview(SERVICE))
            assert answer.status_code == 500
        assert scene.read()[1].requests == 0

    def test_counters_begin_again_after_envoy_was_killed(self, scene: EnvoyScene) -> None:
        scene.serve(20)
        before = sum(arm.requests for arm in scene.read())
        scene.gateway.kill()
        scene.gateway.start()
        scene.gateway.wait_until_served_by(SERVICE, "stable")
        assert sum(arm.requests for arm in scene.read()) < before


@pytest.fixture
def admin() -> Iterator[tuple[HTTPServer, dict[str, bytes]]]:
    """An admin port that answers what the test says."""
    answers: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers[self.path.partition("?")[0]]
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server, answers
        server.shutdown()
        thread.join()


def clusters(**stats: object) -> bytes:
    known = {"rq_success": "5", "rq_error": "1", "rq_active": 0, **stats}
    host = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 9}},
        "stats": [{"name": name, "value": value} for name, value in known.items()],
        "health_status": {"eds_health_status": "HEALTHY"},
    }
    return json.dumps({"cluster_statuses": [{"name": "m", "host_statuses": [host]}]}).encode()


def read(admin: tuple[HTTPServer, dict[str, bytes]], clusters: bytes, stats: bytes = b"") -> EndpointCounters:
    server, answers = admin
    answers |= {"/clusters": clusters, "/stats": stats}
    source = EnvoyAdmin(f"http://127.0.0.1:{server.server_port}")
    try:
        return source.counters()["m"][Endpoint("127.0.0.1", 9)]
    finally:
        source.close()


def test_requests_are_attempts_that_ended(admin: tuple[HTTPServer, dict[str, bytes]]) -> None:
    seen = read(admin, clusters(), b"slipway.slow.service.m.host.127.0.0.1:9: 3\n")
    assert seen == EndpointCounters(requests=6, errors=1, slow=3, active=0, healthy=True)


def test_broken_answers_are_errors_and_abandoned_attempts_are_requests(
    admin: tuple[HTTPServer, dict[str, bytes]],
) -> None:
    lines = [
        f"slipway.{what}.service.m.host.127.0.0.1:9: {number}"
        for what, number in (("slow", 3), ("broken", 2), ("abandoned", 4))
    ]
    seen = read(admin, clusters(), "\n".join(lines).encode())
    assert (seen.requests, seen.errors, seen.slow) == (6 + 4, 1 + 2, 3)
    assert (seen.abandoned, seen.broken) == (4, 2)


@pytest.mark.parametrize(
    ("answer", "stats"),
    [
        (b"", b""),
        (b"[1, 2", b""),
        (b"[]", b""),
        (b"{}", b""),
        (clusters(rq_error="nan"), b""),
        (clusters(rq_error=None), b""),
        (clusters(), b"slipway.slow.service.m.host.127.0.0.1:9: nan\n"),
        (clusters(), b"what is this"),
    ],
)
def test_an_answer_that_makes_no_sense_is_no_counter(
    admin: tuple[HTTPServer, dict[str, bytes]], answer: bytes, stats: bytes
) -> None:
    with pytest.raises(MetricsUnavailable):
        read(admin, answer, stats)


def pretty(*names: str, requests: int = 5) -> bytes:
    """As Envoy lays it out."""
    found = [
        json.loads(clusters(rq_success=str(requests)))["cluster_statuses"][0] | {"name": name}
        for name in names
    ]
    return json.dumps({"cluster_statuses": found}, indent=1).encode() + b"\n"


def test_only_what_changed_is_read_again(admin: tuple[HTTPServer, dict[str, bytes]]) -> None:
    server, answers = admin
    source = EnvoyAdmin(f"http://127.0.0.1:{server.server_port}")
    answers |= {"/clusters": pretty("m", "n"), "/stats": b""}
    first = source.counters()
    answers["/clusters"] = pretty("m", "n").replace(b'"value": "5"', b'"value": "8"', 1)
    second = source.counters()
    answers["/clusters"] = pretty("o")
    third = source.counters()
    source.close()
    assert second["n"] is first["n"]
    assert [each[ENDPOINT].requests for each in (first["m"], second["m"], second["n"])] == [6, 9, 6]
    assert list(third) == ["o"]


def test_a_slow_answer_alone_is_a_change(admin: tuple[HTTPServer, dict[str, bytes]]) -> None:
    server, answers = admin
    source = EnvoyAdmin(f"http://127.0.0.1:{server.server_port}")
    answers |= {"/clusters": pretty("m", "m.stable"), "/stats": b""}
    assert source.counters()["m"][ENDPOINT].slow == 0
    answers["/stats"] = b"slipway.slow.service.m.host.127.0.0.1:9: 3\n"
    seen = source.counters()["m"][ENDPOINT]
    source.close()
    assert (seen.requests, seen.slow) == (12, 3)


def test_a_layout_that_is_not_envoys_today_is_read_as_a_whole(
    admin: tuple[HTTPServer, dict[str, bytes]],
) -> None:
    for layout in (pretty("m", "n"), json.dumps(json.loads(pretty("m", "n")), indent=4).encode(), clusters()):
        assert read(admin, layout).requests == 6
