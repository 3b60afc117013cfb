"""One real Envoy that watches files: what it has taken, as far as it can tell."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from serving.gateway.delivery.base import ProxyState
from serving.gateway.delivery.choice import delivery_of
from serving.gateway.paths import clusters_file
from serving.home import Home, Ports
from serving.types import ALL_STABLE, Route, Slot, TrafficSplit
from tests.unit.serving.gateway_process import Gateway
from tests.unit.serving.upstream import Pods, deployment


def write(gateway: Gateway, pods: Pods, name: str, weight: float, *, at: int) -> Route:
    if not pods.all:
        pods.start("stable")
        pods.start("candidate")
    stable = deployment(name, 1, pods.all[0])
    candidate = deployment(name, 2, pods.all[1], slot=Slot.GREEN)
    split = TrafficSplit(100 - weight, weight)
    return gateway.router.write(name, split, stable=stable, candidate=candidate, at=at)


def test_a_route_is_acknowledged_once_envoy_took_the_file(gateway: Gateway, pods: Pods) -> None:
    for at, weight in enumerate((0, 50, 100)):
        route = write(gateway, pods, "taken", weight, at=at)
        gateway.wait(lambda route=route: not gateway.router.unacknowledged(route))
    (proxy,) = delivery_of(gateway.home).proxies(["taken"])
    assert (proxy.state, proxy.revisions["taken"]) == (ProxyState.SYNCED, 3)


def test_one_that_stands_still_is_named_and_traffic_is_written_all_the_same(
    gateway: Gateway, pods: Pods
) -> None:
    write(gateway, pods, "still", 10, at=0)
    assert gateway.process
    gateway.process.send_signal(signal.SIGSTOP)
    try:
        route = write(gateway, pods, "still", 50, at=1)
        (words,) = gateway.router.unacknowledged(route)
        back = write(gateway, pods, "still", 0, at=2)
        assert back.split == ALL_STABLE
    finally:
        gateway.process.send_signal(signal.SIGCONT)
    assert "Envoy slipway has not acknowledged revision 2 of still" in words
    gateway.wait(lambda: not gateway.router.unacknowledged(back))


def test_what_it_refuses_is_told_in_the_words_of_its_log_and_holds_up_no_weights(
    gateway: Gateway, pods: Pods
) -> None:
    route = write(gateway, pods, "refused", 0, at=0)
    gateway.wait(lambda: not gateway.router.unacknowledged(route))
    text = (
        clusters_file(gateway.home)
        .read_text()
        .replace('"0.5s"', '"-1s"')
        .replace('"version_info": "', '"version_info": "x')
    )
    draft = clusters_file(gateway.home).with_suffix(".new")
    draft.write_text(text)
    draft.rename(clusters_file(gateway.home))
    gateway.wait(lambda: delivery_of(gateway.home).proxies()[0].state is ProxyState.NACK)
    (proxy,) = delivery_of(gateway.home).proxies()
    assert "clusters.json" in proxy.words
    assert "rejected" in proxy.words or "failed" in proxy.words
    shifted = write(gateway, pods, "refused", 50, at=1)
    gateway.wait(lambda: not gateway.router.unacknowledged(shifted))
    gateway.router.reconcile()
    gateway.wait(lambda: delivery_of(gateway.home).proxies()[0].state is ProxyState.SYNCED)


def test_one_that_does_not_run_is_waited_for_by_nobody(tmp_path: Path, gateway: Gateway) -> None:
    dead = Home(tmp_path, Ports(envoy_stats=gateway.home.ports.controller))
    assert delivery_of(dead).proxies() == []


def test_the_envoy_of_another_installation_is_not_ours(tmp_path: Path, gateway: Gateway) -> None:
    assert delivery_of(Home(tmp_path, gateway.home.ports)).proxies() == []


@pytest.mark.parametrize("name", ["with.dots", "with-dash", "under_score"])
def test_names_of_all_kinds_are_recognised(gateway: Gateway, pods: Pods, name: str) -> None:
    route = write(gateway, pods, name, 0, at=0)
    gateway.wait(lambda: not gateway.router.unacknowledged(route))
