"""200 weight changes under load, also while the candidate fails everything: no request may fail.

python -m benchmarks.weight_changes [--changes 200] [--per-second 300]
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from statistics import median

from benchmarks.traffic.load import Result, load
from benchmarks.traffic.stack import gateway_and_controller
from benchmarks.traffic.upstreams import Upstreams, upstreams
from serving.gateway.router.envoy_file import EnvoyFileRouter
from serving.home import Home
from serving.types import ALL_STABLE, Deployment, DeploymentRef, Endpoint, RouteSettings, Slot, TrafficSplit

SERVICE = "changing"
WEIGHTS = (1, 10, 50, 90, 100, 25, 0, 99, 5, 75)
PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run. `write_ms` is how long each change took to be on disk."""

    error_rate: float
    result: Result
    write_ms: list[float]
    candidate_requests: int

    @property
    def is_met(self) -> bool:
        return self.result.failed == 0 and self.candidate_requests > 0


def run(home: Home, pods: Upstreams, *, changes: int, per_second: float, error_rate: float) -> Outcome:
    """Change the weight `changes` times while requests arrive."""
    router = EnvoyFileRouter(home)
    stable, candidate = _deployment(pods, 0, Slot.BLUE), _deployment(pods, 1, Slot.GREEN)
    revision = router.read(SERVICE).revision if SERVICE in router.services() else 0
    route = router.write(
        SERVICE, ALL_STABLE, stable=stable, candidate=candidate, at=revision, settings=RouteSettings()
    )
    pods.fail(1, error_rate)
    time.sleep(2)
    write_ms = []
    with load(home.ports.gateway, [f"/v2/models/{SERVICE}/infer"], per_second=per_second) as traffic:
        for number in range(changes):
            weight = WEIGHTS[number % len(WEIGHTS)]
            began = time.perf_counter()
            split = TrafficSplit(100 - weight, weight)
            route = router.write(SERVICE, split, stable=stable, candidate=candidate, at=route.revision)
            write_ms.append((time.perf_counter() - began) * 1000)
            time.sleep(PAUSE_SECONDS)
        result = traffic.stop()
    return Outcome(error_rate, result, write_ms, pods.seen(1).answered)


def _deployment(pods: Upstreams, upstream: int, slot: Slot) -> Deployment:
    endpoint = Endpoint("127.0.0.1", pods.ports[upstream])
    return Deployment(DeploymentRef(SERVICE, slot, "b", upstream + 1), (endpoint,))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--per-second", type=float, default=300)
    chosen = parser.parse_args()
    with upstreams(2) as pods, gateway_and_controller(controller=False) as home:
        outcomes = [
            run(home, pods, changes=chosen.changes, per_second=chosen.per_second, error_rate=error_rate)
            for error_rate in (0.0, 1.0)
        ]
    for each in outcomes:
        print(
            f"candidate fails {each.error_rate:4.0%}: {chosen.changes} weight changes, "
            f"{each.result.sent} requests, {each.result.failed} failed, "
            f"{each.candidate_requests} at the candidate, "
            f"{median(each.write_ms):.1f} ms a change, slowest answer {each.result.slowest_seconds:.2f} s"
        )
        for problem in each.result.problems:
            print(f"    {problem}")
    return 0 if all(each.is_met for each in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
