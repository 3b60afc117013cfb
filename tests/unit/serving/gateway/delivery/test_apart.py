"""An Envoy that has no home of the installation's: what it is told it has from a controller elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from model_store.installation import ROOT
from serving import composition
from serving.gateway.bootstrap import publish_filters
from serving.gateway.delivery.ads.source import Ads
from serving.home import Home, Ports
from serving.types import ALL_STABLE
from tests.unit.serving.gateway_process import Gateway, ads_running, free_ports
from tests.unit.serving.upstream import deployment, pods_running

SERVICE = "apart"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    gateway, ads, stats = free_ports(3)
    ports = Ports(gateway=gateway, ads=ads, envoy_stats=stats)
    return Home(tmp_path / "controllers", ports, "ads")


def environment(home: Home, root: Path) -> dict[str, str]:
    ports = {f"SLIPWAY_PORT_{name.upper()}": str(getattr(home.ports, name)) for name in Ports.__slots__}
    told = {"SLIPWAY_ENVOY_ID": "a", "SLIPWAY_ENVOY_ADDRESS": "127.0.0.1", "SLIPWAY_HOME": str(root)}
    servers = {"SLIPWAY_ADS_SERVERS": f"localhost:{home.ports.ads}", "SLIPWAY_ADS_TOKEN": Ads(home).token()}
    return {**os.environ, **ports, **told, **servers, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def gateway(home: Home, tmp_path: Path) -> Iterator[Gateway]:
    home.logs.mkdir(parents=True)
    publish_filters(home)
    with ExitStack() as running:
        running.enter_context(ads_running(home))
        client = running.enter_context(httpx.Client(base_url=home.gateway_url, timeout=20))
        log = running.enter_context((home.logs / "envoy.log").open("wb"))
        envoy = subprocess.Popen(
            [sys.executable, "-m", "serving.gateway"],
            env=environment(home, tmp_path / "own"),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        made = Gateway(home, client, process=envoy, id="a")
        try:
            made.wait(lambda: client.get("/v2/health/live").status_code == 200)
            yield made
        finally:
            made.kill()


def stats(home: Home, path: str, method: str = "GET") -> httpx.Response:
    return httpx.request(method, f"http://127.0.0.1:{home.ports.envoy_stats}{path}")


def test_it_serves_what_it_is_told_and_its_counters_are_read_where_it_says(
    home: Home, gateway: Gateway
) -> None:
    with pods_running() as pods:
        stable = deployment(SERVICE, 1, pods.start("pod"))
        gateway.router.write(SERVICE, ALL_STABLE, stable=stable, candidate=None, at=0)
        gateway.wait(lambda: gateway.infer(SERVICE).status_code == 200)
        (proxy,) = composition.proxies_of(home)
        assert (proxy.id, proxy.admin) == ("a", f"127.0.0.1:{home.ports.envoy_stats}")
        source = composition.metrics_of(home)
        (counters,) = source.counters()[SERVICE].values()
        assert counters.requests >= 1
        source.close()  # type: ignore[attr-defined]


def test_others_cannot_change_it_nor_read_its_secrets(home: Home, gateway: Gateway) -> None:
    assert stats(home, "/ready").status_code == 200
    assert stats(home, "/stats/prometheus").status_code == 200
    for path in ("/config_dump", "/", "/logging", "/stats/recentlookups", "/ready/../config_dump"):
        assert stats(home, path).status_code == 404, path
    for path in ("/quitquitquit", "/ready", "/drain_listeners"):
        assert stats(home, path, "POST").status_code == 404, path
    assert gateway.process
    assert gateway.process.poll() is None


def test_before_it_ends_its_callers_are_sent_elsewhere(home: Home, gateway: Gateway, tmp_path: Path) -> None:
    assert "connection" not in gateway.client.get("/v2/health/live").headers
    drain = [sys.executable, "-m", "serving.gateway", "drain"]
    with subprocess.Popen(drain, env=environment(home, tmp_path / "own")) as draining:
        gateway.wait(lambda: gateway.client.get("/v2/health/live").headers.get("connection") == "close")
        assert stats(home, "/ready").status_code in (200, 503)
        gateway.client.close()
        assert draining.wait(20) == 0
    assert gateway.process
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 0


def test_what_it_was_not_told_is_named(tmp_path: Path) -> None:
    environ = {**os.environ, "SLIPWAY_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "serving.gateway"], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "SLIPWAY_ADS_TOKEN" in done.stderr
