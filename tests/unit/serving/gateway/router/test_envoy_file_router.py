from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from model_store.errors import Permanent
from serving.gateway import endpoints
from serving.gateway.bootstrap import prepare
from serving.gateway.paths import clusters_file, routes_file
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import Home, Ports
from serving.types import ALL_STABLE, RateLimit, RouteSettings, TrafficSplit
from tests.contract.router_contract import BLUE, GREEN, RouterContract


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Of an Envoy that watches files."""
    home = Home(tmp_path, Ports())
    prepare(home)
    return home


@pytest.fixture
def router(home: Home) -> EnvoyFileRouter:
    return EnvoyFileRouter(home)


class TestEnvoyFileRouter(RouterContract):
    pass


class TestEnvoyFileRouterOverAds(RouterContract):
    @pytest.fixture
    def router(self, tmp_path: Path) -> EnvoyFileRouter:
        home = Home(tmp_path, Ports(), "ads")
        prepare(home)
        return EnvoyFileRouter(home)

    def test_a_step_is_not_taken_while_no_envoy_has_said_so(self, router: EnvoyFileRouter) -> None:
        route = router.write("m", ALL_STABLE, stable=BLUE, candidate=None, at=0)
        (words,) = router.unacknowledged(route)
        assert "no Envoy" in words


def test_every_cluster_is_told_its_endpoints_apart_where_that_costs_no_watch(tmp_path: Path) -> None:
    home = Home(tmp_path, Ports(), "ads")
    prepare(home)
    EnvoyFileRouter(home).write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=0)
    found = orjson.loads(clusters_file(home).read_bytes())["resources"]
    kinds = {each["name"]: each.get("type", "made of others") for each in found}
    told = dict.fromkeys(("m", "m.stable", "m.streams", "m.candidate"), "EDS")
    assert kinds == {**told, "m.retrying": "made of others", "(any)": "made of others"}


def test_another_delivery_than_before_is_what_everything_says_once_envoy_is_prepared(
    home: Home, router: EnvoyFileRouter
) -> None:
    router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=0)
    before = clusters_file(home).read_bytes()
    prepare(replace(home, delivery="ads"))
    assert b"path_config_source" not in clusters_file(home).read_bytes()
    prepare(home)
    assert clusters_file(home).read_bytes() == before


def test_an_unknown_delivery_says_which_there_are(home: Home) -> None:
    with pytest.raises(Permanent, match="SLIPWAY_GATEWAY_DELIVERY='pigeon'") as refused:
        EnvoyFileRouter(replace(home, delivery="pigeon"))
    assert "files, ads" in refused.value.remedy


def cluster_names(home: Home) -> list[str]:
    return [cluster["name"] for cluster in orjson.loads(clusters_file(home).read_bytes())["resources"]]


@pytest.mark.parametrize(
    "name", ["../m", "a/b", "", "m.candidate", "m.stable", "m.retrying", "m.streams", "a..b"]
)
def test_a_name_that_could_leave_its_folder_or_hide_another_is_refused(
    router: EnvoyFileRouter, name: str
) -> None:
    with pytest.raises(Permanent):
        router.write(name, ALL_STABLE, stable=None, candidate=None, at=0)


def test_a_preview_cluster_exists_only_while_a_candidate_does(home: Home, router: EnvoyFileRouter) -> None:
    router.write("m", ALL_STABLE, stable=BLUE, candidate=None, at=0)
    assert cluster_names(home) == ["m", "m.stable", "m.retrying", "m.streams", "(any)"]
    router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=1)
    assert cluster_names(home) == ["m", "m.stable", "m.retrying", "m.streams", "m.candidate", "(any)"]
    router.write("m", ALL_STABLE, stable=BLUE, candidate=None, at=2)
    assert cluster_names(home) == ["m", "m.stable", "m.retrying", "m.streams", "(any)"]


def test_a_weight_change_touches_one_file(home: Home, router: EnvoyFileRouter) -> None:
    router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=0)
    before = [(path, path.stat().st_mtime_ns) for path in (clusters_file(home), routes_file(home))]
    router.write("m", TrafficSplit(90, 10), stable=BLUE, candidate=GREEN, at=1)
    assert [(path, path.stat().st_mtime_ns) for path, _ in before] == before


def test_reconcile_makes_what_a_crash_left_out(home: Home, router: EnvoyFileRouter) -> None:
    router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=0, settings=RouteSettings(timeout_ms=7))
    clusters, routes = clusters_file(home).read_bytes(), routes_file(home).read_bytes()
    clusters_file(home).write_text("{}")
    routes_file(home).unlink()
    router.reconcile()
    assert (clusters_file(home).read_bytes(), routes_file(home).read_bytes()) == (clusters, routes)


def find_record(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["resources"][0]["endpoints"][0]["metadata"]["filter_metadata"]["slipway"]
    return found


def test_a_controller_of_before_there_were_limits_can_read_a_route_without_any(
    router: EnvoyFileRouter,
) -> None:
    route = router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=0)
    settings = find_record(orjson.loads(endpoints.render(route)))["settings"]
    assert settings.keys() == {"timeout_ms", "idempotent", "latency_objective_ms"}
    limited = RouteSettings(client_rate_limit=RateLimit(5, 10), api_keys=True)
    route = router.write("m", ALL_STABLE, stable=BLUE, candidate=GREEN, at=1, settings=limited)
    assert endpoints.parse(endpoints.render(route)) == route


def test_what_a_newer_version_adds_to_a_route_is_left_out(router: EnvoyFileRouter) -> None:
    route = router.write("m", TrafficSplit(90, 10), stable=BLUE, candidate=GREEN, at=0)
    newer = orjson.loads(endpoints.render(route))
    find_record(newer)["settings"]["mood"] = find_record(newer)["candidate"]["mood"] = "good"
    assert endpoints.parse(orjson.dumps(newer)) == route
