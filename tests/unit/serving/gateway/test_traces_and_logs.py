"""One trace across a real Envoy and a real pod at a real OTLP receiver; an access log that stays small."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from model_store.errors import Permanent
from serving.gateway import access_log, tracing
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Slot, TrafficSplit
from tests.bundles import make_bundle, mlp
from tests.pods import RunningPod, running_pod
from tests.unit.serving.gateway_process import Gateway, gateway_running
from tests.unit.serving.upstream import deployment, pods_running

BODY = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Receiver:
    """An OTLP/HTTP collector. `spans` are (service, span) in the order they came."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, object]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.whole_body()
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def whole_body(self) -> bytes:
                if "content-length" in self.headers:
                    return self.rfile.read(int(self.headers["content-length"]))
                body = b""  # Envoy sends chunks
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                return body

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            names = [a.value.string_value for a in group.resource.attributes if a.key == "service.name"]
            self.spans += [(names[0], span) for scope in group.scope_spans for span in scope.spans]

    def of(self, service: str, trace: str) -> list[object]:
        found = list(self.spans)
        return [span for name, span in found if name == service and span.trace_id.hex() == trace]  # type: ignore[attr-defined]


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = Thread(target=receiver.server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()


def route(gateway: Gateway, *pods: RunningPod) -> None:
    """`wine`: version 1 in the first pod, and with a second one a version 2 that has all the traffic."""
    arms = [
        Deployment(DeploymentRef("wine", slot, f"b{n}", n), (Endpoint("127.0.0.1", pod.port),))
        for n, slot, pod in zip((1, 2), Slot, pods, strict=False)
    ]
    split = TrafficSplit(0, 100) if len(arms) > 1 else ALL_STABLE
    gateway.router.write("wine", split, stable=arms[0], candidate=arms[1] if len(arms) > 1 else None, at=0)
    gateway.wait(lambda: ask(gateway).status_code == 200)


def ask(gateway: Gateway, **headers: str) -> httpx.Response:
    return gateway.client.post("/v2/models/wine/infer", json=BODY, headers=headers)


def test_a_trace_crosses_gateway_and_pods_with_every_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        environ = {tracing.ENDPOINT: receiver.url, tracing.PERCENT: "0"}
        for name, value in {**environ, "OTEL_BSP_SCHEDULE_DELAY": "50"}.items():
            monkeypatch.setenv(name, value)
        bundles = [make_bundle(tmp_path, mlp(seed=v), name="wine", version=v) for v in (1, 2)]
        with (
            gateway_running(tmp_path / "home", environ) as gateway,
            running_pod(bundles[0]) as stable,
            running_pod(bundles[1], faults="wine@2:error_rate=1") as failing,
        ):
            route(gateway, stable, failing)
            before = len(receiver.spans)
            for number in range(12):  # Envoy sends when it has some
                ask(gateway, traceparent=f"00-{TRACE}-00f067aa0ba902{number:02x}-01")
            gateway.wait(lambda: len(receiver.of("slipway-pod", TRACE)) >= 24, seconds=20)
            gateway.wait(lambda: len(receiver.of("slipway-gateway", TRACE)) >= 3, seconds=20)
            ours, theirs = receiver.of("slipway-gateway", TRACE), receiver.of("slipway-pod", TRACE)
            attempts = {span.span_id for span in ours}  # type: ignore[attr-defined]
            assert any(span.parent_span_id in attempts for span in theirs)  # type: ignore[attr-defined]
            # Of each request the failed attempt and the one that answered.
            codes = [
                attribute.value.int_value
                for span in theirs
                for attribute in span.attributes  # type: ignore[attr-defined]
                if attribute.key == "http.response.status_code"
            ]
            assert (codes.count(500), codes.count(200)) == (12, 12)
            # What nobody asked to be traced was not: the gateway's own share is 0 here.
            assert before == 0


@pytest.mark.parametrize("endpoint", ["collector:4317", "https://collector", "http://"])
def test_a_collector_that_cannot_be_reached_so_is_refused_at_start(endpoint: str) -> None:
    with pytest.raises(Permanent, match="4318"):
        tracing.collector({tracing.ENDPOINT: endpoint})


@pytest.mark.parametrize("percent", ["much", "-1", "101", "nan"])
def test_a_share_of_traces_is_a_percentage(percent: str) -> None:
    with pytest.raises(Permanent, match="0 to 100"):
        tracing.of_requests({tracing.ENDPOINT: "http://collector:4318", tracing.PERCENT: percent})


def test_the_access_log_is_turned_over_without_losing_a_line(tmp_path: Path) -> None:
    with gateway_running(tmp_path / "home") as gateway, pods_running() as pods:
        stable = deployment("wine", 1, pods.start("stable"))
        gateway.router.write("wine", ALL_STABLE, stable=stable, candidate=None, at=0)
        gateway.wait_until_served_by("wine", "stable")
        log = access_log.path(gateway.home)
        assert not access_log.turn_over(gateway.home)
        for number in range(4):
            assert gateway.infer(f"nobody{number}").status_code == 404
            gateway.wait(lambda number=number: f"nobody{number}" in written(log))
            assert access_log.turn_over(gateway.home, most_bytes=1)
        assert gateway.infer("last").status_code == 404
        gateway.wait(lambda: "last" in written(log))
        kept = sorted(path.name for path in log.parent.glob("gateway.jsonl*"))
        assert kept == ["gateway.jsonl", "gateway.jsonl.1", "gateway.jsonl.2"]
        assert "nobody3" in written(log.with_name("gateway.jsonl.1"))
        assert "nobody2" in written(log.with_name("gateway.jsonl.2"))


def test_an_envoy_that_was_not_told_is_told_at_the_next_look(tmp_path: Path) -> None:
    with gateway_running(tmp_path / "home") as gateway:
        gateway.infer("first")
        log = access_log.path(gateway.home)
        gateway.wait(lambda: "first" in written(log))
        log.rename(log.with_name("gateway.jsonl.1"))  # and then the controller was killed
        assert access_log.turn_over(gateway.home)
        gateway.infer("second")
        gateway.wait(lambda: "second" in written(log))


def written(path: Path) -> str:
    """Whole lines only: each is JSON."""
    lines = path.read_text().splitlines() if path.exists() else []
    return " ".join(json.loads(line)["path"] for line in lines)
