"""Anonymous callers load a healthy candidate past its weight, or say in headers what only Slipway may say."""

from __future__ import annotations

import base64
import json
import time

import pytest

from model_store.signing import Keyring
from serving.gateway import preview
from serving.home import Home
from serving.types import Slot, TrafficSplit
from tests.unit.serving.gateway_process import Gateway
from tests.unit.serving.upstream import Pods, Upstream, deployment

ARM = {"x-slipway-arm": "candidate"}
SERVICE = "fraud"


@pytest.fixture
def candidate(gateway: Gateway, pods: Pods) -> Upstream:
    """At weight 0."""
    stable, found = pods.start("stable"), pods.start("candidate")
    known = gateway.router.services()
    at = gateway.router.read(SERVICE).revision if SERVICE in known else 0
    gateway.router.write(
        SERVICE,
        TrafficSplit(100, 0),
        stable=deployment(SERVICE, 1, stable),
        candidate=deployment(SERVICE, 2, found, slot=Slot.GREEN),
        at=at,
    )
    gateway.wait_until_served_by(SERVICE, "stable")
    gateway.wait(lambda: gateway.infer(SERVICE, shown(gateway)).status_code == 200)
    found.answered = 0
    return found


def shown(gateway: Gateway, service: str = SERVICE, seconds: float = 60) -> dict[str, str]:
    return {**ARM, preview.TOKEN_HEADER: preview.token(gateway.home, service, seconds=seconds)}


def forged(gateway: Gateway) -> str:
    """A token's words under a signature of somebody else's key."""
    head, said, _ = preview.token(gateway.home, SERVICE, seconds=60).split(".")
    elsewhere = Home(gateway.home.root / "other", gateway.home.ports)
    other = preview.token(elsewhere, SERVICE, seconds=60)
    return f"{head}.{said}.{other.split('.')[2]}"


def unsigned() -> str:
    """`alg: none`, as libraries once took it."""
    said = {"iss": "slipway", "preview": SERVICE, "exp": int(time.time()) + 60}
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()) for part in ({"alg": "none"}, said))
    return ".".join(part.decode().rstrip("=") for part in parts) + "."


def test_nobody_asks_the_candidate_past_its_weight(gateway: Gateway, candidate: Upstream) -> None:
    attempts: list[tuple[str, dict[str, str], tuple[int, ...]]] = [
        ("infer", ARM, (403,)),
        ("versions/2/infer", {}, (403,)),
        ("infer", {**ARM, preview.RIGHT_HEADER: SERVICE}, (403,)),
        ("versions/2/infer", {preview.RIGHT_HEADER: SERVICE}, (403,)),
        ("infer", {**ARM, preview.TOKEN_HEADER: "mine"}, (401,)),
        ("infer", {**ARM, preview.TOKEN_HEADER: forged(gateway)}, (401,)),
        ("infer", {**ARM, preview.TOKEN_HEADER: unsigned()}, (401,)),
        ("infer", shown(gateway, "another"), (403,)),
        ("infer", shown(gateway, seconds=-3600), (401,)),
    ]
    for path, headers, statuses in attempts:
        for _ in range(5):
            answer = gateway.client.post(f"/v2/models/{SERVICE}/{path}", content=b"{}", headers=headers)
            assert answer.status_code in statuses, (path, headers, answer.text)
    assert candidate.answered == 0


def test_who_has_a_token_asks_the_candidate_and_no_verdict_counts_it(
    gateway: Gateway, candidate: Upstream
) -> None:
    for path in ("infer", "versions/2/infer"):
        answer = gateway.client.post(f"/v2/models/{SERVICE}/{path}", content=b"{}", headers=shown(gateway))
        assert (answer.status_code, answer.headers["x-slipway-arm"]) == (200, "candidate")
    assert candidate.answered == 2


def test_what_is_not_for_callers_to_say_reaches_no_pod(gateway: Gateway, candidate: Upstream) -> None:
    said = dict.fromkeys(("x-slipway-warmup", "x-slipway-client", "x-slipway-waited", "x-slipway-sent"), "1")
    assert gateway.infer(SERVICE, {**said, **shown(gateway)}).status_code == 200
    head = candidate.heads[-1].lower()
    assert not [name for name in (*said, preview.TOKEN_HEADER) if f"{name}:" in head]


def test_the_key_is_its_owners(gateway: Gateway) -> None:
    path = gateway.home.root / "preview-keys.json"
    assert Keyring.of(path).private
    assert path.stat().st_mode & 0o077 == 0
