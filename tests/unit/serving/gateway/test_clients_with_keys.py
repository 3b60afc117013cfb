"""The file of clients: who may read it, what is wrong with it, and what an earlier Slipway left in it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest

from model_store.errors import Permanent
from serving.gateway import api_keys, authentication, prepare
from serving.gateway.api_keys import UnknownClient
from serving.home import Home, Ports
from serving.local_stack import prepare as stack
from serving.types import RateLimit


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, Ports())


def row(**changes: object) -> dict[str, object]:
    return {"name": "shop", "keys": ["k"], "limit": None, **changes}


def test_a_client_keeps_its_keys_and_limit_and_gets_more(home: Home) -> None:
    first = api_keys.add_key(home, "shop", RateLimit(5, 10))
    second = api_keys.add_key(home, "shop")
    third = api_keys.add_key(home, "shop", RateLimit(7, 7))
    api_keys.add_key(home, "admin")
    admin, shop = api_keys.clients_of(home)
    assert (admin.name, shop.keys, shop.limit) == ("admin", (first, second, third), RateLimit(7, 7))
    assert api_keys.remove(home, "shop", but_newest=True) == 2
    assert api_keys.clients_of(home)[1].keys == (third,)
    assert api_keys.remove(home, "shop") == 1
    assert [client.name for client in api_keys.clients_of(home)] == ["admin"]


def test_whoever_is_not_there_is_named_with_who_is(home: Home) -> None:
    api_keys.add_key(home, "shop")
    with pytest.raises(UnknownClient, match="'shoe'") as unknown:
        api_keys.remove(home, "shoe")
    assert "shop" in unknown.value.remedy


@pytest.mark.parametrize("name", ["", "a b", "a\r\nx: y", "ä", "-a", "a" * 101])
def test_a_name_that_no_header_can_carry_is_refused(home: Home, name: str) -> None:
    with pytest.raises(Permanent, match="no client's name"):
        api_keys.add_key(home, name)
    assert not home.api_keys.exists()


@pytest.mark.parametrize(("rate", "burst"), [(-1, 0), (1, -1), (float("nan"), 0), (float("inf"), 0)])
def test_a_limit_that_is_none_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(Permanent, match="are no limits"):
        api_keys.limit_of(rate, burst)


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ((0, 0), None),
        ((0, 5), None),
        ((7, 0), RateLimit(7, 7)),
        ((0.1, 0), RateLimit(0.1, 1)),
        ((2, 9), RateLimit(2, 9)),
    ],
)
def test_without_a_burst_it_is_a_seconds_worth(given: tuple[float, float], limit: RateLimit | None) -> None:
    assert api_keys.limit_of(*given) == limit


def test_two_who_add_at_once_both_have_a_key(home: Home) -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = set(threads.map(lambda number: api_keys.add_key(home, f"c{number}"), range(24)))
    assert {key for client in api_keys.clients_of(home) for key in client.keys} == keys


def test_only_the_owner_may_read_keys(home: Home) -> None:
    api_keys.add_key(home, "shop")
    authentication.publish(home)
    for path in (home.api_keys, authentication.keys_file(home)):
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "line 1 column 1"),
        ("7", "not subscriptable"),
        ("{}", "clients"),
        ('{"clients": {}}', ""),
        (json.dumps({"clients": [row(), "shop"]}), ""),
        (json.dumps({"clients": [{"name": "shop", "keys": []}]}), "limit"),
        (json.dumps({"clients": [row(limit={"per_second": "many", "burst": 1})]}), "could not convert"),
        (
            json.dumps({"clients": [{"name": "shop", "sha256": "ab" * 32, "rate": 0, "burst": 0}]}),
            "shop has only the digest of a key, as an earlier Slipway kept it",
        ),
    ],
)
def test_a_file_that_is_none_keeps_the_stack_from_starting_and_says_why(
    home: Home, content: str, said: str
) -> None:
    home.api_keys.write_text(content)
    if content == '{"clients": {}}':
        assert api_keys.clients_of(home) == []
        return
    for begin in (
        lambda: stack.prepare(home, ()),
        lambda: prepare(home),
        lambda: api_keys.add_key(home, "a"),
    ):
        with pytest.raises(Permanent, match="is no file of API keys") as refused:
            begin()
        assert said in refused.value.problem
        assert "slipway keys add" in refused.value.remedy
    assert home.api_keys.read_text() == content


def test_what_envoy_is_told_follows_the_file(home: Home) -> None:
    prepare(home)
    assert told(home) == []
    key = api_keys.add_key(home, "shop")
    prepare(home)
    assert told(home) == [{"client": "shop", "key": key}]


def told(home: Home) -> object:
    (resource,) = orjson.loads(authentication.keys_file(home).read_bytes())["resources"]
    return resource["typed_config"]["extension_config"]["typed_config"]["credentials"]
