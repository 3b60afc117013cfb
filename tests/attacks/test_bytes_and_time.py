"""Anonymous callers send much, or slowly, or nothing at all in many frames: what it costs is bounded."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from serving.gateway import overload, routes
from serving.types import ALL_STABLE
from tests.unit.serving.gateway_process import Gateway, gateway_running
from tests.unit.serving.pod.held_engine import eventually
from tests.unit.serving.upstream import Pods, deployment

BODY_MB, SENDERS = 60, 15


def almost_all(port: int) -> socket.socket:
    """A body but for its last byte. Cut off, it stops."""
    sender = socket.create_connection(("127.0.0.1", port), timeout=60)
    length = BODY_MB << 20
    head = f"POST /v2/models/fraud/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {length + 1}\r\n\r\n"
    with suppress(OSError):
        sender.sendall(head.encode())
        for _ in range(BODY_MB):
            sender.sendall(bytes(1 << 20))
    return sender


@pytest.mark.parametrize("keeps_mb", [16, 64], ids=["now", "as it was"])
def test_slow_large_bodies_do_not_grow_envoy_for_ever(
    gateway: Gateway, pods: Pods, keeps_mb: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 of 60 MB took it from 72 to 948 MB."""
    monkeypatch.setattr(routes, "REPLAYABLE_BYTES", keeps_mb << 20)
    serve(gateway, pods)
    most = _most_of(gateway, SENDERS)
    # What it starts with, what it keeps of each, and what is on its way.
    assert (most < (100 + SENDERS * 20) << 20) is (keeps_mb == 16), f"{most >> 20} MB"


@pytest.mark.parametrize("heap_mb", [150, 100_000], ids=["bounded", "as it was"])
def test_beyond_its_heap_envoy_cuts_off_who_stands_still(tmp_path: Path, pods: Pods, heap_mb: int) -> None:
    with gateway_running(tmp_path, {overload.HEAP: str(heap_mb)}) as gateway, ExitStack() as opened:
        serve(gateway, pods)
        with ThreadPoolExecutor(SENDERS) as pool:
            senders = list(pool.map(almost_all, [gateway.home.ports.gateway] * SENDERS))
        for each in senders:
            opened.enter_context(each).settimeout(0.05)
        is_cut = eventually(lambda: any(_is_told_or_closed(each) for each in senders), seconds=10)
        assert is_cut is (heap_mb == 150)
        gateway.wait(lambda: gateway.infer("fraud").status_code == 200, seconds=30)


def _is_told_or_closed(sender: socket.socket) -> bool:
    try:
        sender.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_callers_beyond_the_number_of_connections_are_closed(tmp_path: Path, pods: Pods) -> None:
    with gateway_running(tmp_path, {overload.CONNECTIONS: "20"}) as gateway, ExitStack() as opened:
        serve(gateway, pods)
        at = ("127.0.0.1", gateway.home.ports.gateway)
        connections = [opened.enter_context(socket.create_connection(at, timeout=5)) for _ in range(40)]
        closed = 0
        for each in connections:
            each.settimeout(0.2)
            with suppress(TimeoutError):
                with suppress(ConnectionError):
                    assert each.recv(1) == b""
                closed += 1
        assert closed >= 20


def serve(gateway: Gateway, pods: Pods) -> None:
    stable = deployment("fraud", 1, pods.start("stable"))
    gateway.router.write("fraud", ALL_STABLE, stable=stable, candidate=None, at=0)
    gateway.wait_until_served_by("fraud", "stable")


def _most_of(gateway: Gateway, senders: int) -> int:
    """Envoy's memory while they send; afterwards it answers others."""
    assert gateway.process
    envoy, most, at = psutil.Process(gateway.process.pid), 0, gateway.home.ports.gateway
    with ExitStack() as opened, ThreadPoolExecutor(senders) as pool:
        sending = [pool.submit(almost_all, at) for _ in range(senders)]
        while not all(each.done() for each in sending):
            most = max(most, envoy.memory_info().rss)
            with suppress(httpx.TransportError):
                assert gateway.infer("fraud").status_code in (200, 503)
        for each in sending:
            opened.callback(each.result().close)
        most = max(most, envoy.memory_info().rss)
        gateway.wait(lambda: gateway.infer("fraud").status_code == 200, seconds=30)
    return most
