"""Releases moved by a controller in the cluster over two Envoys in it, as callers outside see them."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest

from serving import composition
from serving.control.rollout.plan import Phase
from serving.gateway.delivery.base import ProxyState
from serving.metrics.envoy import EnvoyAdmin
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.conftest import Bucket
from tests.kubernetes.installed import CONTROLLER, FAILING, GATEWAY, Installed, Seen, installed, wait

pytestmark = [pytest.mark.kubernetes, pytest.mark.story]

MODEL = "credit_risk"


@pytest.fixture(scope="module")
def slipway(
    cluster: Cluster, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    folder = cluster.shared / "installed"
    folder.mkdir()
    with (
        cluster.namespace(enforce="restricted") as namespace,
        installed(cluster, namespace, folder, bucket.url, bucket.environment) as running,
    ):
        yield running


def test_every_envoy_is_there_and_counted_under_its_own_address(slipway: Installed) -> None:
    pods = slipway.pods("gateway")
    wait(lambda: {each.id for each in composition.proxies_of(slipway.home)} == pods.keys())
    found = composition.proxies_of(slipway.home)
    assert {each.id: each.admin for each in found} == {name: f"{ip}:8487" for name, ip in pods.items()}


def test_the_cluster_says_which_controller_writes(slipway: Installed) -> None:
    (pod,) = slipway.pods("controller")
    lease = slipway.cluster.get("lease", "slipway-controller", "-n", slipway.namespace)["spec"]
    assert lease["holderIdentity"].startswith(f"{pod}:")
    renewed = lease["renewTime"]

    def is_renewed() -> bool:
        now = slipway.cluster.get("lease", "slipway-controller", "-n", slipway.namespace)["spec"]
        return bool(now["renewTime"] > renewed and now["leaseTransitions"] == lease["leaseTransitions"])

    wait(is_renewed)


def test_a_first_version_and_the_next_one_reach_every_caller(slipway: Installed) -> None:
    # Whether a first version may stay is known by what its first callers were answered.
    with slipway.callers(MODEL):
        slipway.until(slipway.start(MODEL, 1), Phase.DONE)
    wait(lambda: slipway.infer(MODEL).status_code == 200)
    with slipway.callers(MODEL) as load:
        slipway.until(slipway.start(MODEL, 2), Phase.DONE)
        time.sleep(1)
    assert not load.failed
    assert load.versions["1"] > 0
    assert load.versions["2"] > 0
    assert slipway.infer(MODEL).json()["model_version"] == "2"
    assert all(each.state is ProxyState.SYNCED for each in composition.proxies_of(slipway.home))


@pytest.mark.parametrize("weight", [20, 100])
def test_a_failing_candidate_is_taken_back_and_no_caller_notices(slipway: Installed, weight: int) -> None:
    version = FAILING[weight]
    envoys = {name: EnvoyAdmin(f"http://{ip}:8487") for name, ip in slipway.pods("gateway").items()}
    with slipway.callers(MODEL) as load:
        state = slipway.start(MODEL, version, steps=(weight, 100) if weight < 100 else (100,))
        candidate = slipway.services.router.read(MODEL).candidate
        assert candidate
        seen = Seen(envoys, MODEL, candidate.endpoints[0])
        wait(lambda: (seen.look(), len(seen.zero) == len(envoys))[1])
        slipway.until(state, Phase.ROLLED_BACK)
    assert not load.failed
    assert f"{version}" not in load.versions
    print(json.dumps({"weight": weight, "seconds": round(seen.seconds, 3), "answers": dict(load.answers)}))  # noqa: T201
    for each in envoys.values():
        each.close()


def test_a_controller_that_is_away_changes_nothing_in_traffic(slipway: Installed) -> None:
    before = slipway.services.router.read(MODEL)
    with slipway.callers(MODEL) as load:
        (old,) = slipway.pods("controller")
        slipway.kubectl("delete", "pod", old, "--grace-period=0", "--force")
        with pytest.raises(AssertionError):
            wait(lambda: slipway.pods("controller").keys() == {old}, seconds=1)
        slipway.kubectl("rollout", "status", f"deployment/{CONTROLLER}", "--timeout=100s")
        wait(lambda: [each.state for each in composition.proxies_of(slipway.home)] == [ProxyState.SYNCED] * 2)
        time.sleep(2)
    assert not load.failed
    assert slipway.services.router.read(MODEL) == before
    assert httpx.get(f"{slipway.home.controller_url}/health").text == "ok\n"


def test_nobody_notices_that_the_gateways_pods_are_replaced(slipway: Installed) -> None:
    before = slipway.pods("gateway")
    with slipway.callers(MODEL) as load:
        slipway.kubectl("rollout", "restart", f"deployment/{GATEWAY}")
        slipway.kubectl("rollout", "status", f"deployment/{GATEWAY}", "--timeout=110s")
        wait(lambda: slipway.pods("gateway").keys().isdisjoint(before))
        time.sleep(2)
    assert not load.failed


# What a pod's shell can reach: a connection and nothing more.
_REACH = """
import socket, sys
host, _, port = sys.argv[1].rpartition(":")
try:
    socket.create_connection((host, int(port)), 4).close()
    print("reached")
except OSError as problem:
    print(f"not: {problem}")
"""
METADATA = "169.254.169.254"


def reaches(slipway: Installed, pod: str, address: str) -> bool:
    said = slipway.kubectl("exec", pod, "--", "python", "-c", _REACH, address)
    assert said.startswith(("reached", "not:")), said
    return said.startswith("reached")


@pytest.fixture(scope="module")
def metadata(slipway: Installed) -> Iterator[str]:
    """A stand-in for the address at which clouds give out what their machines may do."""
    if not slipway.cluster.is_ours:
        pytest.skip("no address of another machine's can be taken")
    address = ["ip", "address", "add", f"{METADATA}/32", "dev", "lo"]
    subprocess.run(address, check=True)
    try:
        with socket.create_server((METADATA, 0)) as server:
            yield f"{METADATA}:{server.getsockname()[1]}"
    finally:
        subprocess.run(["ip", "address", "del", f"{METADATA}/32", "dev", "lo"], check=False)


def test_who_may_ask_whom_is_what_the_policies_say(slipway: Installed, metadata: str) -> None:
    """On the node that enforces them."""
    services = {
        name: slipway.cluster.get("service", name, "-n", slipway.namespace)["spec"]["clusterIP"]
        for name in (CONTROLLER, GATEWAY)
    }
    server = slipway.cluster.get("service", "kubernetes", "-n", "default")["spec"]["clusterIP"]
    slipway.start("another", 1)
    models = placed(slipway, "slipway/service")
    model = placed(slipway, f"slipway/service={MODEL}", node="node-1")
    another = next(iter(placed(slipway, "slipway/service=another").values()))
    envoy = placed(slipway, "app.kubernetes.io/component=gateway", node="node-1")
    controller = placed(slipway, "app.kubernetes.io/component=controller", node="node-1")
    if not (model and envoy and controller):
        pytest.skip(f"the pods are not where policies are enforced: {models}")
    (pod, address), (proxy, proxy_address) = next(iter(model.items())), next(iter(envoy.items()))
    mover = next(iter(controller))
    refused = {
        pod: (
            f"{services[CONTROLLER]}:8484", f"{services[CONTROLLER]}:8486", f"{server}:443",
            f"{proxy_address}:8482", f"{proxy_address}:8487", f"{another}:8080", metadata,
        ),
        proxy: (f"{services[CONTROLLER]}:8484", f"{server}:443", metadata),
        mover: (metadata,),
    }  # fmt: skip
    allowed = {
        proxy: (f"{services[CONTROLLER]}:8486", f"{address}:8080"),
        mover: (f"{server}:443", f"{proxy_address}:8487", f"{services[GATEWAY]}:80"),
    }
    for asker, addresses in refused.items():
        assert [each for each in addresses if reaches(slipway, asker, each)] == [], asker
    for asker, addresses in allowed.items():
        assert [each for each in addresses if not reaches(slipway, asker, each)] == [], asker
    # It is the policies that refuse: without them the same pod reaches the same addresses.
    slipway.kubectl("delete", "networkpolicy", "--all")
    try:
        wait(lambda: all(reaches(slipway, pod, each) for each in refused[pod]))
    finally:
        slipway.cluster.kubectl("apply", "-k", str(slipway.overlay))
    wait(lambda: not any(reaches(slipway, pod, each) for each in refused[pod]))


def placed(slipway: Installed, label: str, *, node: str = "") -> dict[str, str]:
    """Addresses by name, of pods that run, on that node."""
    found = slipway.cluster.get("pods", "-n", slipway.namespace, "-l", label)["items"]
    return {
        each["metadata"]["name"]: each["status"]["podIP"]
        for each in found
        if each["status"].get("podIP")
        and "deletionTimestamp" not in each["metadata"]
        and node in ("", each["spec"].get("nodeName"))
    }
