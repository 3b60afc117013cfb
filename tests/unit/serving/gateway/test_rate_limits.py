"""Token buckets of a real Envoy: what a service and its clients may ask, and what those over it are told."""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path

import pytest

from model_store.errors import Permanent
from serving.gateway.limits import SERVICES, buckets, trusted_proxies
from serving.types import ALL_STABLE, RateLimit, Route, RouteSettings
from tests.unit.serving.gateway_process import Gateway, gateway_running
from tests.unit.serving.upstream import Pods, deployment

# So slow to fill that a test never sees a token come back.
FIVE = RateLimit(per_second=0.01, burst=5)
names = (f"limited{number}" for number in count())


def serve(
    gateway: Gateway,
    pods: Pods,
    *,
    rate_limit: RateLimit | None = None,
    client_rate_limit: RateLimit | None = None,
) -> str:
    """A new service with these limits; its buckets are full."""
    name = next(names)
    start(gateway, pods, name, RouteSettings())
    route = gateway.router.read(name)
    limits = RouteSettings(rate_limit=rate_limit, client_rate_limit=client_rate_limit)
    gateway.router.write(
        name,
        ALL_STABLE,
        stable=route.stable,
        candidate=None,
        at=route.revision,
        settings=limits,
    )
    # One file holds all routes: when a service written later answers, the limits are there, and untouched.
    start(gateway, pods, f"after-{name}", RouteSettings())
    return name


def start(gateway: Gateway, pods: Pods, name: str, settings: RouteSettings) -> None:
    stable = deployment(name, 1, pods.start(name))
    gateway.router.write(name, ALL_STABLE, stable=stable, candidate=None, at=0, settings=settings)
    gateway.wait_until_served_by(name, name)


def ask(gateway: Gateway, name: str, times: int, **headers: str) -> Counter[int]:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return Counter(gateway.infer(name, named).status_code for _ in range(times))


def test_a_service_is_asked_no_more_than_its_bucket_holds(gateway: Gateway, pods: Pods) -> None:
    name = serve(gateway, pods, rate_limit=FIVE)
    before = pods.all[0].answered
    assert ask(gateway, name, 8) == {200: 5, 429: 3}
    assert pods.all[0].answered == before + 5


def test_who_is_over_the_limit_is_told_when_to_come_back(gateway: Gateway, pods: Pods) -> None:
    name = serve(gateway, pods, rate_limit=RateLimit(0.01, 1))
    ask(gateway, name, 1)
    answer = gateway.infer(name)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert answer.json() == {"error": "local_rate_limited"}


def test_no_header_leads_around_the_bucket(gateway: Gateway, pods: Pods) -> None:
    name = serve(gateway, pods, rate_limit=FIVE)
    assert ask(gateway, name, 3)[200] == 3
    assert ask(gateway, name, 8, x_slipway_idempotent="false") == {200: 2, 429: 6}


def test_tokens_come_back_at_the_rate(gateway: Gateway, pods: Pods) -> None:
    name = serve(gateway, pods, rate_limit=RateLimit(per_second=50, burst=1))
    assert 429 in ask(gateway, name, 20)
    gateway.wait(lambda: ask(gateway, name, 1) == {200: 1}, seconds=2)


def test_keys_and_tokens_that_nobody_checks_are_no_other_client(gateway: Gateway, pods: Pods) -> None:
    name = serve(gateway, pods, client_rate_limit=FIVE)
    assert ask(gateway, name, 5) == {200: 5}
    for invented in ({"x_api_key": "a"}, {"x_api_key": "b"}, {"authorization": "Bearer c"}):
        assert ask(gateway, name, 2, **invented) == {429: 2}


def test_a_greedy_client_leaves_the_service_to_the_others(tmp_path: Path, pods: Pods) -> None:
    with gateway_running(tmp_path, {"SLIPWAY_TRUSTED_PROXIES": "1"}) as behind:
        name = serve(behind, pods, rate_limit=RateLimit(0.01, 20), client_rate_limit=FIVE)
        assert ask(behind, name, 30, x_forwarded_for="192.0.2.1")[200] == 5
        assert ask(behind, name, 5, x_forwarded_for="192.0.2.2") == {200: 5}


def test_services_do_not_share_buckets(gateway: Gateway, pods: Pods) -> None:
    one = serve(gateway, pods, client_rate_limit=FIVE)
    ask(gateway, one, 8)
    assert ask(gateway, f"after-{one}", 8) == {200: 8}


@pytest.mark.parametrize("per_second", [0.5, 1, 7, 99.5, 5000])
def test_a_bucket_fills_at_the_rate_that_was_asked_for(per_second: float) -> None:
    route = Route("m", 1, ALL_STABLE, None, None, RouteSettings(rate_limit=RateLimit(per_second, 10)))
    (bucket,) = (found["token_bucket"] for found in buckets([route])[SERVICES]["descriptors"])
    rate = bucket["tokens_per_fill"] / float(bucket["fill_interval"].rstrip("s"))
    assert rate == pytest.approx(per_second, rel=1e-4)
    # Envoy refuses intervals below 50 ms.
    assert float(bucket["fill_interval"].rstrip("s")) >= 0.05


def test_without_limits_the_routes_say_nothing_of_them() -> None:
    assert buckets([Route("m", 1, ALL_STABLE, None, None)]) == {}


def spoofed(gateway: Gateway, name: str) -> Counter[int]:
    return Counter(
        gateway.infer(name, {"x-forwarded-for": f"192.0.2.{number}"}).status_code for number in range(8)
    )


def test_an_invented_forwarded_address_is_no_other_client(gateway: Gateway, pods: Pods) -> None:
    assert spoofed(gateway, serve(gateway, pods, client_rate_limit=FIVE)) == {200: 5, 429: 3}


def test_a_proxy_before_the_gateway_may_say_whose_request_it_is(tmp_path: Path, pods: Pods) -> None:
    with gateway_running(tmp_path, {"SLIPWAY_TRUSTED_PROXIES": "1"}) as behind:
        name = serve(behind, pods, client_rate_limit=FIVE)
        assert spoofed(behind, name) == {200: 8}
        mine = [{"x-forwarded-for": f"192.0.2.{number}, 198.51.100.7"} for number in range(8)]
        assert Counter(behind.infer(name, each).status_code for each in mine) == {200: 5, 429: 3}


@pytest.mark.parametrize("text", ["-1", "one", "", "4294967296"])
def test_a_number_of_proxies_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Permanent, match="SLIPWAY_TRUSTED_PROXIES"):
        trusted_proxies({"SLIPWAY_TRUSTED_PROXIES": text})
