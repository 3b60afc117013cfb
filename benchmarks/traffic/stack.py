"""Envoy and the controller over a temporary home, as the local stack starts them, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from socket import socket

import httpx

from serving.gateway import command, prepare
from serving.home import Home, Ports


@contextmanager
def gateway_and_controller(*, controller: bool = True) -> Iterator[Home]:
    """A home with its Envoy running, and the controller if wanted, on free ports."""
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as folder:
        home = Home(Path(folder), free_ports())
        prepare(home)
        running = [_start(home, command(home), "envoy")]
        if controller:
            running.append(_start(home, [sys.executable, "-m", "serving.controller"], "controller"))
        try:
            wait_until(lambda: httpx.get(home.gateway_url + "/v2/health/live").status_code == 200, seconds=90)
            if controller:
                wait_until(
                    lambda: httpx.get(f"http://127.0.0.1:{home.ports.controller}/health").status_code == 200,
                    seconds=90,
                )
            yield home
        except TimeoutError as late:
            for log in sorted(home.logs.glob("*.log")):
                late.add_note(f"{log.name}: {log.read_text(errors='replace')[-2000:]}")
            raise
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(20)


def wait_until(condition: Callable[[], bool], *, seconds: float = 30, every: float = 0.02) -> None:
    """Raises TimeoutError if `condition` is not met in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if condition():
                return
        time.sleep(every)
    raise TimeoutError(f"not within {seconds:g} s")


def _start(home: Home, arguments: list[str], name: str) -> subprocess.Popen[bytes]:
    ports = {f"SLIPWAY_PORT_{key.upper()}": str(value) for key, value in asdict(home.ports).items()}
    environment = {"SLIPWAY_HOME": str(home.root), "PATH": "/usr/bin:/bin", **ports}
    with (home.logs / f"{name}.log").open("wb") as log:
        return subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, env=environment)


def free_ports() -> Ports:
    sockets = [socket() for _ in range(4)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    gateway, admin, controller, ads = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    return replace(Ports(), gateway=gateway, envoy_stats=admin, controller=controller, ads=ads)
