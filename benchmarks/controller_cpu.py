"""How much of a core the controller takes with 500 releases under way, behind a real Envoy with traffic.

    python -m benchmarks.controller_cpu [--routes 500] [--seconds 30]

Needs a watch per route: `sudo sysctl fs.inotify.max_user_instances=4096`.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from datetime import UTC, datetime

import httpx
import psutil

from benchmarks.traffic.load import load
from benchmarks.traffic.stack import gateway_and_controller, wait_until
from benchmarks.traffic.upstreams import Upstreams, upstreams
from model_store.errors import SlipwayError
from serving import composition
from serving.control.analysis import AnalysisPolicy
from serving.control.rollout.journal import KeptJournal, TimelineEvent, release_id
from serving.control.rollout.plan import Phase, RolloutPlan, RolloutState, RolloutStep
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.gateway.router.kept import LedgerRouter
from serving.gateway.watches import PER_SERVICE, require_spare
from serving.home import Home
from serving.types import Deployment, DeploymentRef, Endpoint, RouteSettings, Slot, TrafficSplit

LIMIT_SHARE = 0.25
LEAST_TICKS_PER_SECOND = 4.0
SPLIT = TrafficSplit(50, 50)
PLAN = RolloutPlan(
    "canary", (RolloutStep(SPLIT, 3600),), 36_000, 3600, AnalysisPolicy(0.001, 0.01, 0.005, 500, 0.01, 50)
)


class ManyRoutes(EnvoyFileRouter):
    """Derives Envoy's other files once, not once a route."""

    def reconcile(self) -> None: ...


def make_releases(home: Home, pods: Upstreams, count: int) -> None:
    """`count` services in the middle of a canary."""
    ledger, now = composition.ledger_of(home, {}), datetime.now(UTC)
    router, journal = LedgerRouter(ledger, ManyRoutes(home)), KeptJournal(ledger)
    for number in range(count):
        name = f"model-{number}"
        stable, candidate = _deployment(name, pods, 0, Slot.BLUE), _deployment(name, pods, 1, Slot.GREEN)
        router.write(
            name, SPLIT, stable=stable, candidate=candidate, at=0, settings=RouteSettings(timeout_ms=5000)
        )
        state = RolloutState(
            release_id(name, 2, at=now), name, 2, 1, PLAN, 0, now, Phase.PROGRESSING, 0, candidate.id, now, 1
        )
        journal.create(state, TimelineEvent(now, "started", "benchmark", 50))
    ledger.close()
    EnvoyFileRouter(home).reconcile()


def _deployment(name: str, pods: Upstreams, upstream: int, slot: Slot) -> Deployment:
    endpoint = Endpoint("127.0.0.1", pods.ports[upstream])
    return Deployment(DeploymentRef(name, slot, "b", upstream + 1), (endpoint,))


def controller_process() -> psutil.Process:
    """The controller that this benchmark started."""
    children = psutil.Process().children(recursive=True)
    return next(each for each in children if "serving.controller" in each.cmdline())


def ticks(home: Home) -> float:
    text = httpx.get(f"http://127.0.0.1:{home.ports.controller}/metrics").text
    found = re.search(r"^slipway_controller_ticks_total (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def is_watching(home: Home, count: int) -> bool:
    text = httpx.get(f"http://127.0.0.1:{home.ports.controller}/metrics").text
    return f"slipway_controller_active_releases {float(count)}" in text


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--routes", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--per-second", type=float, default=0.5, help="requests to each route")
    chosen = parser.parse_args()
    try:
        require_spare(chosen.routes * PER_SERVICE + 8)
    except SlipwayError as problem:
        print(f"error: {problem}")
        return 2
    with upstreams(2) as pods, gateway_and_controller() as home:
        make_releases(home, pods, chosen.routes)
        paths = [f"/v2/models/model-{number}/infer" for number in range(chosen.routes)]
        wait_until(lambda: httpx.get(home.gateway_url + paths[-1]).status_code == 200, seconds=60)
        with load(home.ports.gateway, paths, per_second=chosen.per_second) as traffic:
            wait_until(lambda: is_watching(home, chosen.routes), seconds=60)
            time.sleep(5)
            share, per_second = measure(home, chosen.seconds)
            result = traffic.stop()
        memory = controller_process().memory_info().rss / 1e6
    is_met = share <= LIMIT_SHARE and per_second >= LEAST_TICKS_PER_SECOND and result.failed == 0
    print(
        f"{chosen.routes} releases, {result.sent} requests ({result.failed} failed): {per_second:.1f} looks "
        f"a second, {share:.1%} of one core (limit {LIMIT_SHARE:.0%}), {memory:.0f} MB"
    )
    return 0 if is_met else 1


def measure(home: Home, seconds: float) -> tuple[float, float]:
    """The controller's part of one core, and its looks per second."""
    process = controller_process()
    before, looks, began = process.cpu_times(), ticks(home), time.monotonic()
    time.sleep(seconds)
    after, passed = process.cpu_times(), time.monotonic() - began
    used = after.user + after.system - before.user - before.system
    return used / passed, (ticks(home) - looks) / passed


if __name__ == "__main__":
    sys.exit(main())
