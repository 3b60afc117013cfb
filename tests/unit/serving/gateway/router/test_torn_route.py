"""One service's record is torn: what is the gateway's of it stays, and nobody else is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from serving.gateway import methods, readiness, routes
from serving.gateway.bootstrap import prepare
from serving.gateway.paths import clusters_file, routes_file
from serving.gateway.router.base import UnreadableRoute
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import Home, Ports
from serving.monitoring.config import targets
from serving.types import ALL_STABLE, RateLimit, RouteSettings, TrafficSplit
from tests.contract.router_contract import BLUE, GREEN

LIMITED = RouteSettings(rate_limit=RateLimit(50, 100), client_rate_limit=RateLimit(5, 10))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path, Ports())
    prepare(home)
    return home


@pytest.fixture
def router(home: Home) -> EnvoyFileRouter:
    """Of a canary with limits, `b`, that has neighbours on both sides."""
    router = EnvoyFileRouter(home)
    for name in ("a", "b", "c"):
        settings = LIMITED if name == "b" else None
        router.write(name, ALL_STABLE, stable=BLUE, candidate=GREEN, at=0, settings=settings)
    return router


def tear(router: EnvoyFileRouter, service: str) -> bytes:
    path = router.file(service)
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    return whole


def derived(home: Home) -> tuple[bytes, bytes]:
    return clusters_file(home).read_bytes(), routes_file(home).read_bytes()


def of_b(home: Home) -> str:
    """All that the derived files have of `b`, as text."""
    clusters, table = (orjson.loads(content)["resources"] for content in derived(home))
    host = table[0]["virtual_hosts"][0]
    buckets = [each["descriptors"] for each in host.get("typed_per_filter_config", {}).values()]
    found = [
        *(cluster for cluster in clusters if cluster["name"].split(".")[0] == "b"),
        *(route for route in host["routes"] if is_of_b(route["match"])),
        *(bucket for held in buckets for bucket in held if bucket["entries"][0]["value"] == "b"),
    ]
    return "\n".join(str(each) for each in found)


def is_of_b(match: dict[str, Any]) -> bool:
    named = [header.get("string_match", {}).get("exact") for header in match.get("headers", ())]
    return match.get("path_separated_prefix") == "/v2/models/b" or "b" in named


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"resources": [{"endpoints": [{}]}]}', b"null"])
def test_a_file_that_is_no_record_says_so_with_a_remedy(router: EnvoyFileRouter, content: bytes) -> None:
    router.file("b").write_bytes(content)
    with pytest.raises(UnreadableRoute, match=r"b/endpoints\.json") as refused:
        router.read("b")
    assert refused.value.remedy
    with pytest.raises(UnreadableRoute):
        router.write("b", ALL_STABLE, stable=BLUE, candidate=None, at=1)


def test_a_copy_of_another_services_file_is_no_record(router: EnvoyFileRouter) -> None:
    router.file("b").write_bytes(router.file("a").read_bytes())
    with pytest.raises(UnreadableRoute, match="record of a"):
        router.read("b")


def test_the_gateway_keeps_what_it_has_of_it_while_others_come_and_go(
    home: Home, router: EnvoyFileRouter
) -> None:
    before = of_b(home)
    tear(router, "b")
    router.write("a", ALL_STABLE, stable=GREEN, candidate=None, at=1)
    router.write("d", ALL_STABLE, stable=BLUE, candidate=None, at=0)
    assert of_b(home) == before
    assert "rate_limits" in before
    assert before.count("token_bucket") == 2
    names = [cluster["name"] for cluster in orjson.loads(clusters_file(home).read_bytes())["resources"]]
    assert names == [
        *("a", "a.stable", "a.retrying", "a.streams"),
        *("b", "b.stable", "b.retrying", "b.streams", "b.candidate"),
        *("c", "c.stable", "c.retrying", "c.streams", "c.candidate"),
        *("d", "d.stable", "d.retrying", "d.streams"),
        "(any)",
    ]
    assert "/v2/models/d" in routes_file(home).read_text()


def test_what_refuses_stands_before_what_was_kept(home: Home, router: EnvoyFileRouter) -> None:
    tear(router, "b")
    router.reconcile()
    (table,) = orjson.loads(routes_file(home).read_bytes())["resources"]
    refusals = methods.refusals()
    assert table["virtual_hosts"][0]["routes"][: len(refusals)] == refusals


def test_the_gateway_goes_on_answering_for_it(home: Home, router: EnvoyFileRouter) -> None:
    tear(router, "b")
    router.write("d", ALL_STABLE, stable=BLUE, candidate=None, at=0)
    assert readiness.parse(readiness.file(home).read_bytes()) == ["a", "b", "c", "d"]


def test_with_nothing_else_changed_no_cluster_is_touched(home: Home, router: EnvoyFileRouter) -> None:
    before = derived(home)
    whole = tear(router, "b")
    router.reconcile()
    assert derived(home)[0] == before[0]
    router.file("b").write_bytes(whole)
    router.reconcile()
    assert derived(home) == before


def test_derived_files_that_are_gone_too_are_made_of_the_others(home: Home, router: EnvoyFileRouter) -> None:
    tear(router, "b")
    clusters_file(home).unlink()
    routes_file(home).write_text("{ torn")
    router.reconcile()
    assert of_b(home) == ""
    assert "/v2/models/c" in routes_file(home).read_text()


@pytest.mark.parametrize("is_torn", [False, True])
@pytest.mark.parametrize(
    "resources", ["[1]", "[{}]", '{"a": 1}', '[{"virtual_hosts": null}]', '[{"virtual_hosts": [{}]}]', "null"]
)
def test_derived_files_of_somebody_else_are_made_again(
    home: Home, router: EnvoyFileRouter, resources: str, is_torn: bool
) -> None:
    before = derived(home)
    if is_torn:
        tear(router, "b")
    for path in (clusters_file(home), routes_file(home)):
        path.write_text(f'{{"resources": {resources}}}')
        router.reconcile()
    assert "/v2/models/c" in routes_file(home).read_text()
    assert '"c.stable"' in clusters_file(home).read_text()
    assert is_torn or derived(home) == before


def test_a_mended_file_counts_at_once(router: EnvoyFileRouter) -> None:
    whole = tear(router, "b")
    router.file("b").write_bytes(whole)
    assert router.write("b", TrafficSplit(90, 10), stable=BLUE, candidate=GREEN, at=1).revision == 2


def test_prometheus_is_told_of_the_others(router: EnvoyFileRouter) -> None:
    tear(router, "b")
    assert {group["labels"]["service"] for group in targets(router)} == {"a", "c"}


def services_by_host(home: Home) -> list[str]:
    (table,) = orjson.loads(routes_file(home).read_bytes())["resources"]
    matches = [route["match"] for route in table["virtual_hosts"][0]["routes"]]
    return list(dict.fromkeys(filter(None, map(routes.service_of_host, matches))))


def test_a_host_with_a_dot_is_first_that_of_the_model_called_so_torn_or_not(
    home: Home, router: EnvoyFileRouter
) -> None:
    router.write("a.b", ALL_STABLE, stable=BLUE, candidate=GREEN, at=0)
    assert services_by_host(home) == ["a.b", "a", "b", "c"]
    tear(router, "a.b")
    router.write("c", ALL_STABLE, stable=BLUE, candidate=GREEN, at=1)
    assert services_by_host(home) == ["a.b", "a", "b", "c"]
