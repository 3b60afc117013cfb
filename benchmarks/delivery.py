"""From the write of a route to the last Envoy's acknowledgement: files for one Envoy, ADS for two.

python -m benchmarks.delivery [--services 1 100 500] [--changes 30]

A change of weight is one service's endpoints; a candidate that comes is clusters, endpoints and the whole
route table. Files are left out where Linux does not let the user watch so many
(`fs.inotify.max_user_instances`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median, quantiles

import httpx
import orjson

from benchmarks.traffic.stack import free_ports, wait_until
from benchmarks.traffic.upstreams import Upstreams, upstreams
from model_store.durable import write_file
from model_store.errors import SlipwayError
from serving.gateway import command, endpoints, prepare
from serving.gateway.bootstrap import ID
from serving.gateway.delivery.choice import delivery_of
from serving.gateway.paths import bootstrap_file
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.gateway.watches import PER_SERVICE, require_spare
from serving.home import ADS, DELIVERY, FILES, Home
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, Route, Slot, TrafficSplit

ENVOYS = {FILES: 1, ADS: 2}
# Until a route that all of them have to warm is taken.
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Measured:
    """`*_ms` are from before the write to the last acknowledgement."""

    delivery: str
    services: int
    envoys: int
    weights_ms: list[float]
    candidates_ms: list[float]
    starts_ms: float

    def to_json(self) -> dict[str, object]:
        return {
            "delivery": self.delivery,
            "services": self.services,
            "envoys": self.envoys,
            "weight_ms_median": round(median(self.weights_ms), 1),
            "weight_ms_p95": round(quantiles(self.weights_ms, n=20)[-1], 1),
            "candidate_ms_median": round(median(self.candidates_ms), 1),
            "candidate_ms_worst": round(max(self.candidates_ms), 1),
            "start_ms": round(self.starts_ms),
        }


class Stack:
    """Envoys that are told of `count` services."""

    def __init__(self, home: Home, running: ExitStack, pods: Upstreams, count: int) -> None:
        self.home, self.router = home, EnvoyFileRouter(home)
        self.stable, self.candidate = (_at(pods, number) for number in (0, 1))
        # Written one after the other, each would derive the whole table anew.
        for name in (f"service-{number}" for number in range(count)):
            route = Route(name, 1, ALL_STABLE, self._of(name, self.stable), None)
            write_file(self.router.file(name), endpoints.render(route))
        self.router.reconcile()
        began = time.perf_counter()
        if home.delivery == ADS:
            running.enter_context(
                _started(home, [sys.executable, "-m", "serving.gateway.delivery.ads"], "ads")
            )
        for number in range(ENVOYS[home.delivery]):
            running.enter_context(_envoy(home, number))
        self.wait(self.router.read("service-0"))
        self.starts_ms = (time.perf_counter() - began) * 1000

    def shift(self, weight: float) -> float:
        """A change of weight of one service."""
        return self._timed("service-0", TrafficSplit(100 - weight, weight), has_candidate=True)

    def toggle(self, has_candidate: bool) -> float:
        """A candidate comes or goes."""
        return self._timed("service-0", ALL_STABLE, has_candidate=has_candidate)

    def _timed(self, name: str, split: TrafficSplit, *, has_candidate: bool) -> float:
        route = self.router.read(name)
        candidate = self._of(name, self.candidate) if has_candidate else None
        began = time.perf_counter()
        self.wait(self.router.write(name, split, stable=route.stable, candidate=candidate, at=route.revision))
        return (time.perf_counter() - began) * 1000

    def wait(self, route: Route) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while lacking := self.router.unacknowledged(route) or self._missing():
            if time.monotonic() > deadline:
                raise TimeoutError("; ".join(lacking))
            time.sleep(0.005)

    def _missing(self) -> tuple[str, ...]:
        ready = [each for each in delivery_of(self.home).proxies() if each.is_ready]
        return () if len(ready) == ENVOYS[self.home.delivery] else ("an Envoy is not there yet",)

    def _of(self, service: str, deployment: Deployment) -> Deployment:
        return Deployment(replace(deployment.ref, service=service), deployment.endpoints)


def measure(delivery: str, count: int, changes: int) -> Measured:
    with ExitStack() as running:
        pods = running.enter_context(upstreams(2))
        root = running.enter_context(tempfile.TemporaryDirectory(prefix="slipway-bench-"))
        home = Home(Path(root), free_ports(), delivery)
        home.logs.mkdir()
        prepare(home)
        stack = Stack(home, running, pods, count)
        candidates = [stack.toggle(number % 2 == 0) for number in range(max(changes // 3, 4))]
        stack.toggle(True)
        weights = [stack.shift((number % 99) + 1) for number in range(changes)]
        return Measured(delivery, count, ENVOYS[delivery], weights, candidates, stack.starts_ms)


@contextmanager
def _envoy(home: Home, number: int) -> Iterator[None]:
    own = home
    if number:
        ports = free_ports()
        ports = replace(home.ports, gateway=ports.gateway, envoy_stats=ports.envoy_stats)
        own = replace(home, ports=ports)
    prepare(own, {ID: f"envoy-{number}"})
    config = home.envoy / f"envoy-{number}.json"
    config.write_bytes(bootstrap_file(home).read_bytes())
    with _started(own, command(own, concurrency=1, config=config), f"envoy-{number}"):
        wait_until(_is_ready(own), seconds=PATIENCE_SECONDS)
        yield


def _is_ready(home: Home) -> Callable[[], bool]:
    return lambda: httpx.get(f"{home.envoy_stats_url}/ready").status_code == httpx.codes.OK


@contextmanager
def _started(home: Home, arguments: list[str], name: str) -> Iterator[None]:
    ports = {f"SLIPWAY_PORT_{key.upper()}": str(value) for key, value in asdict(home.ports).items()}
    environ = {**os.environ, **ports, "SLIPWAY_HOME": str(home.root), DELIVERY: home.delivery}
    with (home.logs / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, env=environ)
    try:
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def _at(pods: Upstreams, number: int) -> Deployment:
    ref = DeploymentRef("service", (Slot.BLUE, Slot.GREEN)[number], "b", number + 1)
    return Deployment(ref, (Endpoint("127.0.0.1", pods.ports[number]),))


def _room(delivery: str, count: int) -> str:
    """Why Linux would not let Envoy watch so many files; "" if it does."""
    if delivery == FILES:
        try:
            require_spare(PER_SERVICE * count + 8)
        except SlipwayError as problem:
            return problem.problem
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, nargs="+", default=[1, 100, 500])
    parser.add_argument("--changes", type=int, default=30)
    chosen = parser.parse_args()
    found: list[dict[str, object]] = []
    print(f"{'':6} services envoys  weight: median  p95   candidate: median  worst   start (ms)")
    for delivery in ENVOYS:
        for count in chosen.services:
            if why := _room(delivery, count):
                print(f"{delivery:6} {count:8}  left out: {why}")
                found.append({"delivery": delivery, "services": count, "left_out": why})
                continue
            row = measure(delivery, count, chosen.changes).to_json()
            found.append(row)
            print(
                f"{delivery:6} {count:8} {row['envoys']:6} {row['weight_ms_median']:15} "
                f"{row['weight_ms_p95']:5} {row['candidate_ms_median']:18} {row['candidate_ms_worst']:6} "
                f"{row['start_ms']:7}"
            )
    print(orjson.dumps({"load_average": os.getloadavg()[0], "measured": found}).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
