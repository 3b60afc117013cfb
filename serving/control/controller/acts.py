"""What the controller does because somebody asks for it. `serving.control.traffic` says what each means."""

from __future__ import annotations

import threading
from collections.abc import Callable

from serving.control import answers_through_gateway, cooldowns, rollbacks
from serving.control.controller.rollback_jobs import LINGER_SECONDS, RollbackJobs
from serving.control.release_deployment import deployment_of, route_of
from serving.control.rollbacks import RollbackRequest
from serving.control.rollout.advance import Rollouts
from serving.control.rollout.from_spec import plan_of, settings_of
from serving.control.rollout.journal import UnknownRelease
from serving.control.rollout.plan import RolloutState
from serving.control.traffic import RollbackProgress
from serving.control.wiring import Services


class Acts:
    """`TrafficControl` in the process that moves traffic. `services` have these acts among them."""

    def __init__(
        self,
        rollouts: Rollouts,
        services: Callable[[], Services],
        *,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self._rollouts, self._services = rollouts, services
        self.jobs = RollbackJobs(services, linger_seconds=linger_seconds)
        self._resolving = threading.Lock()

    def start(self, release_id: str, deployment_id: str) -> RolloutState:
        try:
            return self._rollouts.read(release_id)
        except UnknownRelease:
            release = self._services().releases.load(release_id)
        deployment = deployment_of(self._services(), release.model, deployment_id)
        plan, settings = plan_of(release.spec.rollout), settings_of(release.spec)
        route = route_of(self._services(), release.model)
        is_first = route is None or route.stable is None
        unproven = is_first and answers_through_gateway.is_kept(release, deployment.bundle_id)
        return self._rollouts.start(release_id, plan, deployment, settings, unproven=unproven)

    def read(self, release_id: str) -> RolloutState:
        return self._rollouts.read(release_id)

    def roll_back(self, release_id: str, *, reason: str) -> RolloutState:
        return self._rollouts.roll_back(release_id, reason=reason)

    def proven(self, release_id: str, *, reason: str) -> RolloutState:
        return self._rollouts.proven(release_id, reason=reason)

    def finish_watch(self, release_id: str, *, reason: str = "the watch was ended early") -> RolloutState:
        return self._rollouts.finish_watch(release_id, reason=reason)

    def withdraw(self, release_id: str) -> RolloutState:
        self._rollouts.withdraw(release_id)
        return self._rollouts.read(release_id)

    def roll_model_back(self, request: RollbackRequest) -> RollbackProgress:
        services = self._services()
        with self._resolving:
            # The same asked twice at once would be two.
            rollbacks.resolve(services, request)
        rollback = rollbacks.begin(services, request)
        # A run that somebody clears long after it was over says nothing of a hold that began since.
        if not rollbacks.is_from_alert(request) and not rollbacks.is_carried_out(services, rollback.id):
            cooldowns.end_hold(services, request.model)
        return self.jobs.carry_out(rollback)

    def rollback(self, rollback_id: str) -> RollbackProgress:
        return rollbacks.progress_of(self._services(), rollback_id)
