"""What breaks in a cluster while a canary has half of the traffic, as callers outside see it.

Two controllers of which one leads, over one PostgreSQL; two Envoys; two pods of each version, spread over two
nodes. The tests tell one story in order: a canary that survives what is not its fault, and ends with what is.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from model_store.errors import Retryable
from serving.composition import wire
from serving.control.controller.leadership import LEASE_SECONDS
from serving.control.rollout.plan import Phase, RolloutState
from serving.metrics.envoy import EnvoyAdmin
from serving.types import Endpoint
from tests import postgresql
from tests.kubernetes import cluster as clusters
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.conftest import Bucket
from tests.kubernetes.installed import Installed, Load, installed, wait
from tests.kubernetes.test_pods_come_and_go import process_of
from tests.kubernetes.test_releases_in_the_cluster import placed

pytestmark = [pytest.mark.kubernetes, pytest.mark.story, pytest.mark.timeout(900)]

MODEL = "credit_risk"
# Longer than a lease lasts, and than a silent node keeps its pods here. Figures in docs/kubernetes.md: 60.
AWAY_SECONDS = float(os.environ.get("SLIPWAY_TEST_AWAY_SECONDS") or 30)
# Of which nobody sees an end here.
FOR_GOOD = 3600.0


@dataclass
class Chaos:
    """`canary`: the release that stands at 50 %."""

    slipway: Installed
    database: postgresql.Server
    canary: RolloutState

    @property
    def cluster(self) -> Cluster:
        return self.slipway.cluster

    def begin(self, version: int, *, replicas: int) -> None:
        self.canary = self.slipway.start(
            MODEL, version, steps=(50, 100), hold_seconds=FOR_GOOD, replicas=replicas
        )
        wait(lambda: set(self.weights().values()) == {50})

    def weights(self) -> dict[str, int]:
        """The candidate's share in percent, as each Envoy that answers has it."""
        found = {}
        for name, address in self.slipway.pods("gateway").items():
            try:
                with closing(EnvoyAdmin(f"http://{address}:8487")) as admin:
                    counted = admin.counters().get(MODEL, {})
            except Retryable:  # One that has just begun says nothing yet.
                continue
            stable = self.slipway.services.router.read(MODEL).stable
            endpoints: set[Endpoint] = set(stable.endpoints) if stable else set()
            every = sum(each.weight for each in counted.values())
            ours = sum(each.weight for at, each in counted.items() if at in endpoints)
            if every:
                found[name] = round(100 * (1 - ours / every))
        return found

    def pods(self, slot: str) -> list[dict[str, Any]]:
        """Of that slot, those that are not ending."""
        label = f"slipway/service={MODEL},slipway/slot={slot}"
        found = self.cluster.get("pods", "-n", self.slipway.namespace, "-l", label)["items"]
        return [each for each in found if "deletionTimestamp" not in each["metadata"]]

    def slot(self, arm: str) -> str:
        found = getattr(self.slipway.services.router.read(MODEL), arm)
        return str(found.ref.slot)

    def all_ready(self) -> bool:
        every = self.pods("blue") + self.pods("green")
        wanted = sum(each["spec"]["replicas"] for each in self.deployments())
        return len(every) == wanted and all(_is_ready(each) for each in every)

    def deployments(self) -> list[dict[str, Any]]:
        return self.cluster.objects("deployments", self.slipway.namespace, MODEL)

    def leader(self) -> str:
        """The pod that has the Lease, as its holder's name says."""
        lease = self.cluster.get("lease", "slipway-controller", "-n", self.slipway.namespace)
        return str(lease["spec"]["holderIdentity"]).partition(":")[0]

    @contextmanager
    def callers(self, what: str) -> Iterator[Load]:
        """Whoever calls tries a connection again that nobody takes, as callers of a Service do. What they
        were answered is printed: the figures of docs/kubernetes.md."""
        with self.slipway.callers(MODEL) as load:
            time.sleep(1)
            began = time.monotonic()
            yield load
            time.sleep(2)
        seconds = round(time.monotonic() - began, 1)
        said = {str(answer): count for answer, count in load.answers.items()}
        print(json.dumps({"what": what, "seconds": seconds, "answers": said, "versions": load.versions}))  # noqa: T201

    def require_half(self) -> None:
        """The canary stands where it stood, in every Envoy and in the ledger."""
        try:
            wait(lambda: sorted(self.weights().values()) == [50, 50])
            # Who leads may be changing just now, so it is asked until it answers.
            wait(lambda: self._stands_at_half())
        except AssertionError:
            said = [
                self.slipway.kubectl("logs", pod, "--tail=15", check=False)
                for pod in self.slipway.pods("controller")
            ]
            state, route = self.state(), self.slipway.services.router.read(MODEL)
            raise AssertionError("\n".join(map(str, (self.weights(), state, route, *said)))) from None

    def _stands_at_half(self) -> bool:
        """Each controller says so, and where the pods are."""
        addresses = {each["status"]["podIP"] for slot in ("blue", "green") for each in self.pods(slot)}
        for address in self.slipway.pods("controller").values():
            services = wire(replace(self.slipway.home, controller_at=f"http://{address}:8484"))
            route = services.router.read(MODEL)
            arms = [arm for arm in (route.stable, route.candidate) if arm]
            if {each.host for arm in arms for each in arm.endpoints} != addresses:
                return False
        state = self.state()
        return state.phase is Phase.PROGRESSING and state.split.candidate == 50

    def state(self) -> RolloutState:
        return self.slipway.state(self.canary.release_id)


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@pytest.fixture(scope="module")
def chaos(cluster: Cluster, bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    """A first version that serves, and a second one at 50 %."""
    if not cluster.is_ours:
        pytest.skip("what breaks is this machine's own cluster")
    folder = cluster.shared / "chaos"
    folder.mkdir()
    node = httpx.URL(bucket.environment["AWS_ENDPOINT_URL"]).host
    with (
        postgresql.server(address=node) as database,
        cluster.namespace(enforce="restricted") as namespace,
        installed(
            cluster,
            namespace,
            folder,
            bucket.url,
            bucket.environment,
            models_on_all_nodes=True,
            database_url=database.at_its_address(database.database()),
        ) as slipway,
    ):
        with slipway.callers(MODEL):
            first = slipway.until(slipway.start(MODEL, 1, replicas=2), Phase.DONE)
        made = Chaos(slipway, database, first)
        made.begin(2, replicas=2)
        yield made


def test_two_controllers_stand_and_the_cluster_says_which_of_them_writes(chaos: Chaos) -> None:
    pods = chaos.slipway.pods("controller")
    assert len(pods) == 2
    assert chaos.leader() in pods


@pytest.mark.parametrize("arm", ["stable", "candidate"])
def test_a_pod_that_is_killed_costs_nobody_an_answer(chaos: Chaos, arm: str) -> None:
    with chaos.callers(f"a pod of {arm} killed") as load:
        os.kill(process_of(chaos.pods(chaos.slot(arm))[0]), signal.SIGKILL)
        wait(lambda: not chaos.all_ready(), seconds=20)
        wait(chaos.all_ready, seconds=120)
    assert not load.failed
    chaos.require_half()


def test_an_envoy_that_is_killed_costs_the_connections_that_it_had(chaos: Chaos) -> None:
    name, _ = next(iter(chaos.slipway.pods("gateway").items()))
    pod = chaos.cluster.get("pod", name, "-n", chaos.slipway.namespace)
    with chaos.callers("an Envoy killed") as load:
        os.kill(process_of(pod), signal.SIGKILL)
        wait(lambda: not _is_ready(chaos.cluster.get("pod", name, "-n", chaos.slipway.namespace)))
        wait(lambda: _is_ready(chaos.cluster.get("pod", name, "-n", chaos.slipway.namespace)))
    # Six callers, each with one connection: it died at most once.
    assert sum(load.failed.values()) <= 6, load.failed
    assert not [each for each in load.failed if isinstance(each, int)], load.failed
    chaos.require_half()


def test_a_node_is_drained(chaos: Chaos) -> None:
    """Of both versions a pod is on it, and each has a budget."""
    node = "node-2"
    before = placed(chaos.slipway, f"slipway/service={MODEL}", node=node)
    assert before, "no pod of the model is on the second node"
    with chaos.callers("a node drained") as load:
        try:
            chaos.cluster.kubectl(
                "drain", node, "--pod-selector=slipway/service", "--ignore-daemonsets",
                "--delete-emptydir-data", "--timeout=110s",
            )  # fmt: skip
            wait(chaos.all_ready, seconds=120)
        finally:
            chaos.cluster.kubectl("uncordon", node)
    assert not load.failed
    assert not placed(chaos.slipway, f"slipway/service={MODEL}", node=node)
    chaos.require_half()


def test_a_node_that_is_lost_is_not_the_candidates_failure(
    chaos: Chaos, lost_node: Callable[[], None]
) -> None:
    # Drained before: one of each is sent back there.
    for slot in ("blue", "green"):
        moved = chaos.pods(slot)[0]["metadata"]["name"]
        chaos.slipway.kubectl("delete", "pod", moved)
    wait(chaos.all_ready, seconds=120)
    wait(lambda: set(chaos.weights().values()) == {50})
    on_it = placed(chaos.slipway, f"slipway/service={MODEL}", node="node-2")
    assert on_it, "no pod of the model is on the second node"
    with chaos.callers("a node lost") as load:
        lost_node()
        wait(lambda: not placed(chaos.slipway, f"slipway/service={MODEL}", node="node-2"), seconds=90)
        wait(chaos.all_ready, seconds=120)
    assert not load.failed
    chaos.require_half()


@pytest.mark.parametrize("how", ["killed", "deleted"])
def test_the_leading_controller_dies_and_another_goes_on(chaos: Chaos, how: str) -> None:
    """One that is killed begins again in its pod, and may lead again. Of one that is deleted nothing is left,
    and the other one knows where the pods are that moved since the route was written."""
    old, before = chaos.leader(), _transitions(chaos)
    pod = chaos.cluster.get("pod", old, "-n", chaos.slipway.namespace)
    with chaos.callers(f"the leading controller {how}") as load:
        began = time.monotonic()
        os.kill(process_of(pod), signal.SIGKILL)
        if how == "deleted":
            chaos.slipway.kubectl("delete", "pod", old, "--force", "--grace-period=0")
        wait(lambda: _transitions(chaos) > before and chaos.leader() in chaos.slipway.pods("controller"))
        print(json.dumps({"what": f"another leads: {how}", "seconds": round(time.monotonic() - began, 1)}))  # noqa: T201
        assert how == "killed" or chaos.leader() != old
        chaos.require_half()
    assert not load.failed


def _transitions(chaos: Chaos) -> int:
    lease = chaos.cluster.get("lease", "slipway-controller", "-n", chaos.slipway.namespace)
    return int(lease["spec"]["leaseTransitions"])


def test_the_api_server_is_away(chaos: Chaos) -> None:
    server = psutil.Process(int((clusters.CLUSTER_HOME / "pid" / "kube-apiserver").read_text()))
    with chaos.callers("the API server away") as load:
        server.suspend()
        try:
            time.sleep(AWAY_SECONDS)
        finally:
            server.resume()
        wait(lambda: chaos.cluster.kubectl("get", "--raw", "/readyz", check=False) == "ok")
        chaos.require_half()
    assert not load.failed
    wait(lambda: chaos.leader() in chaos.slipway.pods("controller"))
    wait(chaos.all_ready, seconds=120)


def test_a_candidate_that_dies_while_postgresql_is_away_goes_back_and_that_is_written_down(
    chaos: Chaos,
) -> None:
    candidates = [psutil.Process(process_of(each)) for each in chaos.pods(chaos.slot("candidate"))]
    stable = chaos.slipway.services.router.read(MODEL).stable
    assert stable
    envoys = chaos.slipway.pods("gateway")
    with chaos.callers("PostgreSQL away") as load:
        began = time.monotonic()
        with chaos.database.stopped():
            time.sleep(LEASE_SECONDS / 2)
            for each in candidates:
                each.suspend()
            failing = time.monotonic()
            wait(lambda: _has_all(envoys, stable.endpoints), seconds=AWAY_SECONDS - 5)
            print(json.dumps({"what": "stable has all", "seconds": round(time.monotonic() - failing, 1)}))  # noqa: T201
            for each in candidates:
                each.resume()
            time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - began)))
            assert _has_all(envoys, stable.endpoints)
        chaos.slipway.until(chaos.canary, Phase.ROLLED_BACK)
    assert not load.failed
    assert _has_all(envoys, stable.endpoints)


def _has_all(envoys: dict[str, str], endpoints: tuple[Endpoint, ...]) -> bool:
    """Whether these have all the weight in every Envoy. Asks no controller."""
    for address in envoys.values():
        with closing(EnvoyAdmin(f"http://{address}:8487")) as admin:
            counted = admin.counters().get(MODEL, {})
        if {at for at, each in counted.items() if each.weight} != set(endpoints):
            return False
    return True


def test_a_candidate_that_is_killed_for_want_of_memory_goes_back(chaos: Chaos) -> None:
    """Again and again, as one that leaks: once alone is healed in seconds."""
    chaos.begin(3, replicas=1)

    def is_back() -> bool:
        if chaos.state().phase is Phase.ROLLED_BACK:
            return True
        for pod in chaos.pods(chaos.slot("candidate")):
            # Its status may be older than its end.
            if _is_ready(pod):
                with suppress(AssertionError, OSError):
                    _want_memory(pod)
        return False

    with chaos.callers("the only candidate OOM-killed") as load:
        wait(is_back, seconds=120)
    assert not load.failed
    reason = chaos.state().reason
    # Whichever is first: what it failed meanwhile, which stable answered, or that it stays away.
    assert "candidate failed" in reason or "needed more memory than its limit" in reason, reason
    wait(lambda: chaos.slipway.infer(MODEL).json()["model_version"] == "1")


_HOG = """
import sys
open(sys.argv[1], "w").write("0")
bytearray(2 << 30)
"""


def _want_memory(pod: dict[str, Any]) -> None:
    """As much as its limit is and more, by a process beside the server, which the kernel kills last."""
    groups = Path(f"/proc/{process_of(pod)}/cgroup").read_text().splitlines()
    path = next((line.split(":", 2)[2] for line in groups if ":memory:" in line), "")
    folder = Path("/sys/fs/cgroup/memory" if path else "/sys/fs/cgroup")
    at = folder / (path or groups[0].split(":", 2)[2]).lstrip("/")
    subprocess.run([sys.executable, "-c", _HOG, str(at / "cgroup.procs")], check=False, timeout=60)
