"""Two real Envoys, told by a real server in a process of its own, under load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import pytest

from serving import composition
from serving.control.rollout.observe import share_in_force
from serving.gateway.delivery.base import Proxy, ProxyState
from serving.gateway.delivery.choice import delivery_of
from serving.gateway.paths import clusters_file, routes_file
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import DELIVERY, Home, Ports
from serving.metrics.base import MetricsSource
from serving.metrics.envoy import EnvoyAdmin
from serving.types import ALL_STABLE, Route, Slot, TrafficSplit
from tests.unit.serving.gateway_process import Gateway, beside, envoy_running, free_ports
from tests.unit.serving.upstream import Pods, deployment, pods_running

SERVICE = "m"


@dataclass
class Load:
    """A caller of one Envoy who asks as soon as it is answered."""

    gateway: Gateway
    answers: Counter[object] = field(default_factory=Counter)
    _ending: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ending.set()
            for thread in threads:
                thread.join(30)

    def _ask(self) -> None:
        with httpx.Client(base_url=self.gateway.home.gateway_url, timeout=20) as client:
            while not self._ending.wait(0.005):
                try:
                    answer = client.post(f"/v2/models/{SERVICE}/infer", content=b"{}")
                    self.answers[answer.status_code] += 1
                except httpx.TransportError as problem:
                    self.answers[type(problem).__name__] += 1

    @property
    def failed(self) -> Counter[object]:
        return self.answers - Counter({200: self.answers[200]})


class World:
    """A home, its server, and two Envoys: `a` and `b`."""

    def __init__(self, home: Home, running: ExitStack, pods: Pods) -> None:
        self.home, self.router, self.pods, self._running = home, EnvoyFileRouter(home), pods, running
        self.router.reconcile()
        self.start_server()
        self.homes = {"a": home, "b": beside(home)}
        self.a, self.b = (running.enter_context(envoy_running(self.homes[id], id=id)) for id in ("a", "b"))
        self.stable = deployment(SERVICE, 1, pods.start("stable"))
        self.candidate = deployment(SERVICE, 2, pods.start("candidate"), slot=Slot.GREEN)
        self.split(0, at=0)
        for envoy in (self.a, self.b):
            envoy.wait_until_served_by(SERVICE, "stable")

    def start_server(self) -> None:
        ports = {f"SLIPWAY_PORT_{name.upper()}": str(port) for name, port in asdict(self.home.ports).items()}
        environ = {**os.environ, **ports, "SLIPWAY_HOME": str(self.home.root), DELIVERY: "ads"}
        with (self.home.logs / "ads.log").open("ab") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "serving.gateway.delivery.ads"],
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._running.callback(self.end_server)

    def end_server(self) -> None:
        self.server.kill()
        self.server.wait(10)

    def split(self, weight: float, *, at: int | None = None) -> Route:
        revision = self.router.read(SERVICE).revision if at is None else at
        split = TrafficSplit(100 - weight, weight)
        return self.router.write(SERVICE, split, stable=self.stable, candidate=self.candidate, at=revision)

    def step(self, weight: float) -> Route:
        """And wait until everybody has it."""
        route = self.split(weight)
        self.wait(lambda: not self.router.unacknowledged(route))
        return route

    def weight(self, id: str) -> float:
        """The candidate's share (0-1) in that Envoy."""
        admin = EnvoyAdmin(self.homes[id].envoy_stats_url)
        try:
            found = admin.counters()[SERVICE]
        finally:
            admin.close()
        return share_in_force(self.router.read(SERVICE), found)

    def proxies(self) -> dict[str, Proxy]:
        return {each.id: each for each in delivery_of(self.home).proxies()}

    def wait(self, condition: Callable[[], object], *, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s: {(self.home.logs / 'ads.log').read_text()[-3000:]}")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    gateway, admin, ads = free_ports(3)
    home = Home(tmp_path, Ports(gateway=gateway, envoy_stats=admin, ads=ads), "ads")
    home.logs.mkdir(parents=True)
    with ExitStack() as running:
        yield World(home, running, running.enter_context(pods_running()))


def test_one_of_two_that_is_killed_and_comes_back_costs_nobody_else_a_request(world: World) -> None:
    here, there = Load(world.a), Load(world.b)
    with here.running():
        with there.running():
            world.step(10)
            assert (world.weight("a"), world.weight("b")) == (0.1, 0.1)
            world.b.kill()
            world.wait(lambda: world.proxies()["b"].state is ProxyState.GONE)
            world.step(25)
            assert world.weight("a") == 0.25
        world.b.start()
        world.wait(lambda: world.proxies()["b"].state is ProxyState.SYNCED)
        assert world.weight("b") == 0.25
        world.step(50)
        assert (world.weight("a"), world.weight("b")) == (0.5, 0.5)
    assert here.answers[200] > 0
    assert not here.failed
    # Sockets that died with their Envoy, and refused ones while it was away.
    assert all(isinstance(answer, str) for answer in there.failed)


def test_one_that_stands_still_is_named_and_a_rollback_does_not_wait_for_it(world: World) -> None:
    load = Load(world.a)
    world.step(10)
    assert world.b.process
    with load.running():
        world.b.process.send_signal(signal.SIGSTOP)
        try:
            route = world.split(50)
            world.wait(lambda: world.weight("a") == 0.5 and len(world.router.unacknowledged(route)) == 1)
            (named,) = world.router.unacknowledged(route)
            assert f"Envoy b has not acknowledged revision {route.revision} of {SERVICE}" in named
            back = world.split(0)
            world.wait(lambda: world.weight("a") == 0)
            assert world.router.unacknowledged(back)
        finally:
            world.b.process.send_signal(signal.SIGCONT)
        world.wait(lambda: not world.router.unacknowledged(back))
        assert world.weight("b") == 0
    assert not load.failed


def test_a_server_that_is_killed_and_started_again_changes_nothing_in_traffic(world: World) -> None:
    loads = Load(world.a), Load(world.b)
    world.step(25)
    with loads[0].running(), loads[1].running():
        before = counted(world)
        world.end_server()
        while_away = world.split(0)
        assert world.router.unacknowledged(while_away)
        assert world.weight("a") == 0.25
        world.start_server()
        world.wait(lambda: not world.router.unacknowledged(while_away))
        assert (world.weight("a"), world.weight("b")) == (0, 0)
        assert all(proxy.state is ProxyState.SYNCED for proxy in world.proxies().values())
        world.step(50)
        assert all(now >= then for now, then in zip(counted(world), before, strict=True))
    assert not loads[0].failed + loads[1].failed


def counted(world: World) -> list[int]:
    """What stable answered in each Envoy: a cluster made anew would begin at 0."""
    found = []
    for home in world.homes.values():
        admin = EnvoyAdmin(home.envoy_stats_url)
        found.append(admin.counters()[SERVICE][world.stable.endpoints[0]].requests)
        admin.close()
    return found


def test_what_an_envoy_refuses_is_told_in_its_words_with_its_name(world: World) -> None:
    text = clusters_file(world.home).read_text()
    clusters_file(world.home).with_suffix(".new").write_text(text.replace('"0.5s"', '"-1s"'))
    clusters_file(world.home).with_suffix(".new").rename(clusters_file(world.home))
    world.wait(lambda: all(each.state is ProxyState.NACK for each in world.proxies().values()))
    assert {"a", "b"} == world.proxies().keys()
    assert "Invalid duration" in world.proxies()["a"].words
    assert world.a.infer(SERVICE).status_code == 200
    world.router.reconcile()
    world.wait(lambda: all(each.state is ProxyState.SYNCED for each in world.proxies().values()))


def test_who_does_not_know_the_token_is_told_nothing(world: World) -> None:
    world.b.kill()
    world.wait(lambda: world.proxies()["b"].state is ProxyState.GONE)
    (world.home.envoy / "ads-token").write_text("another")
    with pytest.raises(AssertionError):
        world.b.start()
    assert world.proxies()["b"].state is ProxyState.GONE
    assert "without the home's token" in (world.home.logs / "ads.log").read_text()


def test_a_service_that_comes_and_a_candidate_that_goes_are_told_while_everybody_is_asked(
    world: World,
) -> None:
    loads = Load(world.a), Load(world.b)
    with loads[0].running(), loads[1].running():
        world.step(50)
        route = world.router.write(
            SERVICE,
            ALL_STABLE,
            stable=world.candidate,
            candidate=None,
            at=world.router.read(SERVICE).revision,
        )
        world.wait(lambda: not world.router.unacknowledged(route))
        assert f'"{SERVICE}.candidate"' not in clusters_file(world.home).read_text()
        first = deployment("first", 1, world.pods.all[0])
        route = world.router.write("first", ALL_STABLE, stable=first, candidate=None, at=0)
        world.wait(lambda: not world.router.unacknowledged(route))
        assert world.b.infer("first").status_code == 200
        assert "has no candidate now" in routes_file(world.home).read_text()
        world.a.wait_until_served_by(SERVICE, "candidate")
    assert not loads[0].failed + loads[1].failed


def test_what_both_have_counted_is_summed_and_one_that_stands_still_blinds_nobody(world: World) -> None:
    world.step(50)
    source = composition.metrics_of(world.home)
    before = total(source)
    for envoy in (world.a, world.b):
        for _ in range(20):
            assert envoy.infer(SERVICE).status_code == 200
    assert total(source) - before == 40
    assert world.b.process
    world.b.process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(10):
            assert world.a.infer(SERVICE).status_code == 200
        assert total(source) - before == 50
    finally:
        world.b.process.send_signal(signal.SIGCONT)
    world.b.kill()
    world.b.start()
    assert total(source) - before == 50
    source.close()


def total(source: MetricsSource) -> int:
    return sum(each.requests for each in source.counters()[SERVICE].values())
