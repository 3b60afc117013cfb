"""A simulated installation: routes, journal and controller, with traffic and clocks told by the test.

`world.tick()` lets `requests` requests arrive, split by the route's weight, then the controller looks,
judges, decides and applies. Failures of the candidate are repeated on stable, as the gateway does.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Any, Self

from model_store.types import Bundle, GateReport, ModelRef
from serving.control.analysis import AnalysisPolicy
from serving.control.controller.pods import PodWatch
from serving.control.controller.tick import Controller
from serving.control.rollout.advance import Rollouts
from serving.control.rollout.journal import KeptJournal
from serving.control.rollout.plan import Action, Phase, RolloutPlan, RolloutState, RolloutStep
from serving.gateway.router.base import TrafficRouter
from serving.gateway.router.kept import LedgerRouter
from serving.gateway.router.memory import MemoryRouter
from serving.ledger.memory import MemoryLedger
from serving.metrics.base import EndpointCounters
from serving.metrics.envoy import MetricsUnavailable
from serving.platforms.base import DeploymentSpec
from serving.types import (
    ALL_STABLE,
    Deployment,
    DeploymentRef,
    Endpoint,
    Route,
    RouteSettings,
    Slot,
    TrafficSplit,
)
from tests.moving_platform import MovingPlatform

SERVICE = "fraud"
RELEASE = "fraud-v2-20261121T120000Z"
POLICY = AnalysisPolicy(0.001, 0.01, 0.005, 500, 0.01, 50)
PLAN = RolloutPlan(
    "canary",
    tuple(RolloutStep(TrafficSplit(100 - weight, weight), 2) for weight in (10, 50, 100)),
    max_step_seconds=600,
    watch_seconds=60,
    policy=POLICY,
)
NOTHING = EndpointCounters(0, 0, 0, active=0, healthy=True)


def deployed(version: int, slot: Slot, service: str = SERVICE) -> Deployment:
    endpoint = Endpoint("127.0.0.1", 9000 + version)
    return Deployment(DeploymentRef(service, slot, f"b{version}", version), (endpoint,))


def _placed(platform: MovingPlatform, deployment: Deployment) -> Deployment:
    """The same, where the platform has it run."""
    ref = deployment.ref
    bundle = Bundle(ref.bundle_id, ModelRef(ref.service, ref.version), (), GateReport("", ()), Path())
    platform.apply(ref, DeploymentSpec(bundle, replicas=1))
    return Deployment(ref, platform.move(ref))


class World:
    """Time moves only in `tick`; every rate is the share of an arm's attempts that fail or are slow."""

    def __init__(
        self,
        *,
        plan: RolloutPlan = PLAN,
        has_stable: bool = True,
        platform: MovingPlatform | None = None,
        ledger: MemoryLedger | None = None,
        told: TrafficRouter | None = None,
    ) -> None:
        self.wall = datetime(2026, 11, 21, 12, tzinfo=UTC)
        self.uptime = 1000.0
        self.ledger = ledger or MemoryLedger()
        self.journal = KeptJournal(self.ledger)
        self.told = told or MemoryRouter()
        self.router = LedgerRouter(self.ledger, self.told, now=self.now)
        self.counters_by_endpoint: dict[Endpoint, EndpointCounters] = {}
        self.requests_per_tick = 100
        self.error_rate = {"stable": 0.0, "candidate": 0.0}
        self.slow_rate = {"stable": 0.0, "candidate": 0.0}
        self.refused_rate = {"stable": 0.0, "candidate": 0.0}
        self.malformed_rate = 0.0
        self.owed: Counter[str] = Counter()
        self.envoy_answers = True
        self.metrics_late_ticks = 0
        self.controller_is_up = True
        self.silent = False
        self.actions: list[Action] = []
        self.seen_by_candidate = 0
        self._late: list[dict[Endpoint, EndpointCounters]] = []
        self._shown = 0
        self.stable, self.candidate = deployed(1, Slot.BLUE), deployed(2, Slot.GREEN)
        self.pods = PodWatch(platform, self.router) if platform else None
        if platform:
            self.stable, self.candidate = (_placed(platform, each) for each in (self.stable, self.candidate))
        if has_stable:
            self.router.write(SERVICE, ALL_STABLE, stable=self.stable, candidate=None, at=0)
        self.restart_controller()
        self.rollouts.start(RELEASE, plan, self.candidate, RouteSettings())

    # what the world is
    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.uptime

    @property
    def rollouts(self) -> Rollouts:
        return self.controller.rollouts

    @property
    def route(self) -> Route:
        return self.router.read(SERVICE)

    @property
    def split(self) -> TrafficSplit:
        return self.route.split

    @property
    def state(self) -> RolloutState:
        return self.journal.load(RELEASE)

    @property
    def phase(self) -> Phase:
        return self.state.phase

    # what the test says
    def candidate_errors(self, rate: float) -> Self:
        self.error_rate["candidate"] = rate
        return self

    def stable_errors(self, rate: float) -> Self:
        self.error_rate["stable"] = rate
        return self

    def candidate_slow(self, rate: float) -> Self:
        self.slow_rate["candidate"] = rate
        return self

    def candidate_refuses(self, rate: float) -> Self:
        self.refused_rate["candidate"] = rate
        return self

    def both_refuse(self, rate: float) -> Self:
        self.refused_rate = {"stable": rate, "candidate": rate}
        return self

    def clients_send_garbage(self, rate: float) -> Self:
        self.malformed_rate = rate
        return self

    def requests(self, per_tick: int) -> Self:
        self.requests_per_tick = per_tick
        return self

    def envoy_restarts(self) -> Self:
        """All of its counters begin again at 0."""
        self.counters_by_endpoint.clear()
        self._late.clear()
        self._shown = 0
        return self

    def restart_controller(self) -> Self:
        clocks: dict[str, Any] = {"now": self.now, "monotonic": self.monotonic}
        self.controller = Controller(self.journal, self.router, self, **clocks, pods=self.pods)
        return self

    def clock_jumps(self, seconds: float) -> Self:
        self.wall += timedelta(seconds=seconds)
        return self

    def tick(self, count: int = 1, *, seconds: float = 0.25) -> Self:
        for _ in range(count):
            self.wall += timedelta(seconds=seconds)
            self.uptime += seconds
            self._serve()
            if self.controller_is_up and self.pods:
                self.pods.look()
            if self.controller_is_up:
                self.controller.tick()
                self.router.settle()
                self.actions += filter(None, [self.controller.actions.get(RELEASE)])
        return self

    def until(self, phase: Phase, *, step: int | None = None, ticks: int = 2000) -> Self:
        for _ in range(ticks):
            if self.phase is phase and step in (None, self.state.step):
                return self
            self.tick()
        raise AssertionError(f"still {self.state.phase} at step {self.state.step}: {self.actions[-1:]}")

    # MetricsSource
    def counters(self) -> dict[str, dict[Endpoint, EndpointCounters]]:
        if not self.envoy_answers:
            raise MetricsUnavailable("Envoy is gone", remedy="start it")
        self._late.append(dict(self.counters_by_endpoint))
        self._shown = max(self._shown, len(self._late) - 1 - self.metrics_late_ticks)
        late = self._late[self._shown]
        known = {
            endpoint: replace(late.get(endpoint, NOTHING), weight=weight, priority=priority)
            for endpoint, weight, priority in self._in_cluster()
        }
        if self.silent:
            known = {
                endpoint: replace(counters, healthy=endpoint not in self.candidate.endpoints)
                for endpoint, counters in known.items()
            }
        return {SERVICE: known}

    def _in_cluster(self) -> list[tuple[Endpoint, int, int]]:
        """Endpoints with weight (0: a preview) and priority, as `serving.gateway.endpoints` has them."""
        route, split = self.route, self.route.split
        found = []
        if route.stable:
            found.append((route.stable.endpoints[0], round(split.stable) or 1, int(split.candidate == 100)))
        if route.candidate:
            found.append((route.candidate.endpoints[0], ceil(split.candidate), 0))
        return found

    def _serve(self) -> None:
        route = self.route
        to_candidate = round(self.requests_per_tick * route.split.candidate / 100)
        failed = 0
        if self.silent and route.stable:
            # The gateway sets an endpoint aside that nobody can reach, and stable gets its requests.
            to_candidate = 0
        if to_candidate and route.candidate:
            self.seen_by_candidate += to_candidate
            failed = self._attempts(route.candidate, "candidate", to_candidate)
        to_stable = self.requests_per_tick - to_candidate + failed
        if route.stable and to_stable:
            self._attempts(route.stable, "stable", to_stable)

    def _attempts(self, deployment: Deployment, arm: str, count: int) -> int:
        arm = "candidate" if deployment.ref == self.candidate.ref else "stable"
        endpoint = deployment.endpoints[0]
        before = self.counters_by_endpoint.get(endpoint, NOTHING)
        errors = self._whole(f"{arm} errors", count * self.error_rate[arm])
        slow = self._whole(f"{arm} slow", count * self.slow_rate[arm])
        malformed = self._whole(f"{arm} malformed", count * self.malformed_rate)
        well = count - errors - malformed
        refused = self._whole(f"{arm} refused", well * self.refused_rate[arm])
        repeated = refused if arm == "candidate" else 0
        self.counters_by_endpoint[endpoint] = replace(
            before,
            requests=before.requests + count,
            errors=before.errors + errors + repeated,
            slow=before.slow + slow,
            refused=before.refused + refused,
            repeated=before.repeated + repeated,
            malformed=before.malformed + malformed,
        )
        return errors + repeated

    def _whole(self, what: str, amount: float) -> int:
        """Whole requests; what is left over is paid with the next ticks."""
        self.owed[what] += round(amount * 1000)
        whole, self.owed[what] = divmod(self.owed[what], 1000)
        return whole
