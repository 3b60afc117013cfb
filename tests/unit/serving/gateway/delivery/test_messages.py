"""Envoy's messages are made of the same JSON that it reads from files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from serving.gateway import attempts, authentication, bootstrap
from serving.gateway.bootstrap import prepare
from serving.gateway.delivery.ads.messages import ROUTES, Encoder, UnknownMessage, encoded, kind
from serving.gateway.delivery.ads.records import GatewayFiles
from serving.gateway.delivery.choice import delivery_of
from serving.gateway.paths import routes_file
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import Home, Ports
from serving.types import RateLimit, RouteSettings, TrafficSplit
from tests.contract.router_contract import BLUE, GREEN

SETTINGS = RouteSettings(rate_limit=RateLimit(50, 100), client_rate_limit=RateLimit(5, 10), api_keys=True)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path, Ports(), "ads")
    prepare(home)
    for name in ("a", "b"):
        EnvoyFileRouter(home).write(
            name, TrafficSplit(50, 50, True), stable=BLUE, candidate=GREEN, at=0, settings=SETTINGS
        )
    return home


def table(home: Home) -> dict[str, Any]:
    (found,) = orjson.loads(routes_file(home).read_bytes())["resources"]
    return dict(found)


def test_every_message_of_the_bootstrap_and_of_attempts_is_described(home: Home) -> None:
    content = bootstrap.bootstrap(home, delivery_of(home), {})
    found = set(types_in([content, attempts.counters(), authentication.required()]))
    assert len(found) > 10
    for name in found:
        assert kind(name.removeprefix("type.googleapis.com/"))


def types_in(content: object) -> Iterator[str]:
    if isinstance(content, dict):
        if "@type" in content:
            yield content["@type"]
        content = list(content.values())
    if isinstance(content, list):
        for each in content:
            yield from types_in(each)


def test_a_table_made_of_its_parts_is_the_table_made_at_once(home: Home) -> None:
    whole = kind("envoy.config.route.v3.RouteConfiguration")
    made = whole.FromString(Encoder().encode(table(home)))
    assert made == whole.FromString(encoded(ROUTES, table(home)))


def test_what_envoy_would_not_understand_says_what_is_wrong() -> None:
    with pytest.raises(UnknownMessage, match="mood"):
        encoded(ROUTES, {"name": "models", "mood": "good"})


def test_two_servers_of_the_same_files_say_the_same_versions(home: Home) -> None:
    one, other = GatewayFiles(home).read(), GatewayFiles(home).read()
    assert one is not None
    assert one == other


def test_before_the_files_are_there_nothing_is_known(tmp_path: Path) -> None:
    assert GatewayFiles(Home(tmp_path, Ports(), "ads")).read() is None


def test_a_torn_file_changes_nothing_of_what_is_told(home: Home) -> None:
    records = GatewayFiles(home)
    before = records.read()
    routes_file(home).write_text("{ torn")
    EnvoyFileRouter(home).file("a").write_text("")
    after = records.read()
    assert before is not None
    assert after == before


def test_what_has_not_changed_is_not_made_again(home: Home) -> None:
    records = GatewayFiles(home)
    before = records.read()
    EnvoyFileRouter(home).write("a", TrafficSplit(90, 10, True), stable=BLUE, candidate=GREEN, at=1)
    after = records.read()
    assert before is not None
    assert after is not None
    changed = [
        name
        for type_url, found in after.resources.items()
        for name, each in found.items()
        if each is not before.resources[type_url].get(name)
    ]
    assert changed == ["a"]
    assert after.revisions == {"a": 2, "b": 1}
