"""A real Envoy on free ports over a temporary home."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from serving.gateway import command, prepare, preview
from serving.gateway.bootstrap import ID
from serving.gateway.delivery.ads.server import AdsServer
from serving.gateway.delivery.ads.source import Ads
from serving.gateway.paths import bootstrap_file
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import Home, Ports


def free_ports(count: int) -> list[int]:
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass
class Gateway:
    """Envoy, its home, and a client. `id` tells several Envoys of one home apart."""

    home: Home
    client: httpx.Client
    process: subprocess.Popen[bytes] | None = None
    environ: dict[str, str] = field(default_factory=dict)
    id: str = "slipway"

    @property
    def router(self) -> EnvoyFileRouter:
        return EnvoyFileRouter(self.home)

    def start(self, *, concurrency: int = 1) -> None:
        prepare(self.home, {**self.environ, ID: self.id})
        own = self.home.envoy / f"{self.id}.json"
        own.write_bytes(bootstrap_file(self.home).read_bytes())
        with (self.home.logs / "envoy.log").open("ab") as log:
            self.process = subprocess.Popen(
                command(self.home, concurrency=concurrency, config=own), stdout=log, stderr=subprocess.STDOUT
            )
        self.wait(lambda: httpx.get(f"{self.home.envoy_stats_url}/ready").status_code == 200)
        self.wait(lambda: self.client.get("/v2/health/live").status_code == 200)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait(10)

    def infer(
        self, service: str, headers: dict[str, str] | None = None, body: bytes = b"{}"
    ) -> httpx.Response:
        return self.client.post(f"/v2/models/{service}/infer", content=body, headers=headers or {})

    def preview(self, service: str) -> dict[str, str]:
        """What asks the candidate past its weight."""
        token = preview.token(self.home, service, seconds=60)
        return {"x-slipway-arm": "candidate", preview.TOKEN_HEADER: token}

    def wait_until_served_by(self, service: str, name: str, headers: dict[str, str] | None = None) -> None:
        """Until `name` answers: Envoy has read the file and the first health check has passed."""
        self.wait(lambda: name in self.infer(service, headers).text)

    def wait(self, condition: object, *, seconds: float = 10) -> None:
        assert callable(condition)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if condition():
                    return
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s; {(self.home.logs / 'envoy.log').read_text()[-2000:]}")


@contextmanager
def gateway_running(
    root: Path, environ: dict[str, str] | None = None, *, delivery: str = "files"
) -> Iterator[Gateway]:
    gateway, admin, controller, ads = free_ports(4)
    home = Home(root, Ports(gateway=gateway, envoy_stats=admin, controller=controller, ads=ads), delivery)
    with ExitStack() as running:
        if delivery == "ads":
            running.enter_context(ads_running(home))
        yield running.enter_context(envoy_running(home, environ))


@contextmanager
def envoy_running(
    home: Home, environ: dict[str, str] | None = None, id: str = "slipway"
) -> Iterator[Gateway]:
    with httpx.Client(base_url=home.gateway_url, timeout=20) as client:
        running = Gateway(home, client, environ=environ or {}, id=id)
        running.start()
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def ads_running(home: Home) -> Iterator[AdsServer]:
    EnvoyFileRouter(home).reconcile()
    server = AdsServer(home, listen=Ads(home).listen(), token=Ads(home).token())
    server.start()
    try:
        yield server
    finally:
        server.stop()


def beside(home: Home) -> Home:
    """Of another Envoy that serves the same routes on the same machine."""
    gateway, admin = free_ports(2)
    return replace(home, ports=replace(home.ports, gateway=gateway, envoy_stats=admin))
