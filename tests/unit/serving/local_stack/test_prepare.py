"""What a stack of an earlier Slipway is given when it starts anew."""

from __future__ import annotations

import sys
from pathlib import Path

import orjson
import pytest

from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import Home, Ports
from serving.local_stack.prepare import prepare
from serving.platforms import pods
from serving.types import Deployment, DeploymentRef, Endpoint, RouteSettings, Slot, TrafficSplit
from tests.bundles import make_bundle, mlp


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", Ports())


def deployed(home: Home, bundles: Path, *, api_keys: bool) -> Deployment:
    bundle = make_bundle(bundles, mlp(), name="locked", serving={"api_keys": api_keys})
    endpoints = (Endpoint("127.0.0.1", 1),)
    deployment = Deployment(DeploymentRef("locked", Slot.BLUE, "1", 1), endpoints)
    pods.write_record(home, pods.PodRecord(deployment, bundle, ""))
    return deployment


def forget_keys(path: Path) -> None:
    """As the record was written before the gateway could ask for them."""
    content = orjson.loads(path.read_bytes())
    record = content["resources"][0]["endpoints"][0]["metadata"]["filter_metadata"]["slipway"]
    del record["api_keys"]
    path.write_bytes(orjson.dumps(content))


@pytest.mark.parametrize("wanted", [True, False])
def test_a_model_whose_pods_asked_for_keys_stays_closed(home: Home, tmp_path: Path, wanted: bool) -> None:
    deployment = deployed(home, tmp_path, api_keys=wanted)
    router = EnvoyFileRouter(home)
    split = TrafficSplit(90, 10)
    before = router.write("locked", split, stable=deployment, candidate=deployment, at=0)
    forget_keys(router.file("locked"))
    prepare(home, ())
    after = EnvoyFileRouter(home).read("locked")
    assert after.settings.api_keys is wanted
    assert (after.revision, after.split, after.stable) == (1, split, before.stable)
    assert ("slipway.api_keys" in (home.envoy / "routes.json").read_text()) is wanted


def test_a_model_that_asks_for_keys_no_more_stays_open(home: Home, tmp_path: Path) -> None:
    deployment = deployed(home, tmp_path, api_keys=True)
    router = EnvoyFileRouter(home)
    settings = RouteSettings(api_keys=False)
    router.write("locked", TrafficSplit(100, 0), stable=deployment, candidate=None, at=0, settings=settings)
    prepare(home, ())
    assert not router.read("locked").settings.api_keys


def test_programs_of_an_earlier_slipway_start_what_is_here_now(home: Home, tmp_path: Path) -> None:
    deployed(home, tmp_path, api_keys=False)
    folder = home.pods / ".programs"
    folder.mkdir()
    names = ("pod-locked-blue.conf", "redis.conf")
    for name in names:
        (folder / name).write_text("[program:x]\ncommand=/gone/python -m serving.stack.launch x\n")
    prepare(home, ())
    for name in names:
        (command,) = (
            line for line in (folder / name).read_text().splitlines() if line.startswith("command=")
        )
        assert command.startswith(f"command={sys.executable} -m serving.local_stack.launch ")


def test_a_pod_without_a_program_gets_none(home: Home, tmp_path: Path) -> None:
    deployed(home, tmp_path, api_keys=False)
    prepare(home, ())
    assert list((home.pods / ".programs").glob("*.conf")) == []
