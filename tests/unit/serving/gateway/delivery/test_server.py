"""The server as an object with a start and a stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_store.errors import Permanent
from serving import controller
from serving.gateway.bootstrap import prepare
from serving.gateway.delivery.ads import records, server
from serving.gateway.delivery.ads.server import AdsServer
from serving.gateway.delivery.ads.state import State
from serving.home import Home, Ports
from tests.unit.serving.gateway_process import ads_running, free_ports


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (port,) = free_ports(1)
    home = Home(tmp_path, Ports(ads=port), "ads")
    prepare(home)
    return home


def test_a_port_that_is_taken_is_said_at_once(home: Home) -> None:
    with ads_running(home), pytest.raises(Permanent, match="cannot be served at") as refused:
        AdsServer(home, listen=f"127.0.0.1:{home.ports.ads}", token="t").start()
    assert "SLIPWAY_ADS_LISTEN" in refused.value.remedy


def test_many_services_that_take_long_to_read_keep_nobody_from_starting(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(self: records.GatewayFiles, changed: object = None) -> State | None:
        time.sleep(2)
        return None

    monkeypatch.setattr(records.GatewayFiles, "read", slow)
    monkeypatch.setattr(server, "_START_SECONDS", 1.0)
    made = AdsServer(home, listen=f"127.0.0.1:{home.ports.ads}", token="t")
    made.start()
    monkeypatch.setattr(server, "_START_SECONDS", 10.0)
    made.stop()


def test_stopped_twice_or_never_started_it_is_no_trouble(home: Home) -> None:
    with ads_running(home) as running:
        running.stop()
    AdsServer(home, listen="127.0.0.1:1", token="t").stop()


def test_one_that_ends_after_its_start_says_so_where_the_controller_is_asked_how_it_is(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(self: records.GatewayFiles, changed: object = None) -> State | None:
        raise KeyError("a kind that nobody knows")

    watching: Any = SimpleNamespace(
        pending={}, done=SimpleNamespace(ticks=1, last_tick_at=time.monotonic() + 60)
    )
    made = AdsServer(home, listen=f"127.0.0.1:{home.ports.ads}", token="t")
    assert controller._problem(watching, made) == ""
    monkeypatch.setattr(records.GatewayFiles, "read", torn)
    made.start()
    made._thread.join(10)
    assert "told nothing" in controller._problem(watching, made)
    assert "a kind that nobody knows" in made.problem


def test_an_envoy_goes_to_the_server_of_the_controller_that_leads(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import grpc

    from serving.gateway.delivery.ads.messages import kind

    leads = [False]
    made = AdsServer(home, listen=f"127.0.0.1:{home.ports.ads}", token="t", serves=lambda: leads[0])
    made.start()
    request = kind("envoy.service.discovery.v3.DiscoveryRequest")(
        type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"
    )
    request.node.id = "a"
    path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
    try:
        with grpc.insecure_channel(f"127.0.0.1:{home.ports.ads}") as channel:
            ask = channel.stream_stream(
                path,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=kind("envoy.service.discovery.v3.DiscoveryResponse").FromString,
            )
            shown = (("authorization", "Bearer t"),)
            with pytest.raises(grpc.RpcError) as refused:
                next(ask(iter([request]), metadata=shown, timeout=60))
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            leads[0] = True
            open_until = threading.Event()

            def asking() -> Iterator[Any]:
                yield request
                open_until.wait(60)

            answers = ask(asking(), metadata=shown, timeout=60)
            assert next(answers).type_url == request.type_url
            leads[0] = False
            with pytest.raises(grpc.RpcError) as ended:
                list(answers)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            open_until.set()
    finally:
        made.stop()
