"""What the controller does because somebody asks for it. `serving.control.traffic` says what each means."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from model_store.errors import Retryable
from serving.control import audit_entries, cooldowns, freeze_enforcement, reasons, rollbacks
from serving.control.audit import AuditEntry
from serving.control.controller.rollback_jobs import LINGER_SECONDS, RollbackJobs
from serving.control.controller.rollout_jobs import CandidateOf, RolloutJobs, progress_of
from serving.control.controller.settlement import Settlement
from serving.control.rollbacks import RollbackRequest
from serving.control.rollout.advance import Rollouts
from serving.control.rollout.control import ControlRequest
from serving.control.rollout.journal import UnknownRelease
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.traffic import RollbackProgress, RolloutProgress
from serving.control.wiring import Services, now
from serving.types import Route


class Acts:
    """`TrafficControl` in the process that moves traffic. `services` have these acts among them.

    `take_what_runs`: `LedgerRouter.adopt`, where routes are in a ledger.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        services: Callable[[], Services],
        candidate_of: CandidateOf,
        *,
        linger_seconds: float = LINGER_SECONDS,
        take_what_runs: Callable[[str], Route] | None = None,
    ) -> None:
        self._rollouts, self._services = rollouts, services
        self._take_what_runs = take_what_runs
        self.settlement = Settlement(services, linger_seconds=linger_seconds)
        self.starts = RolloutJobs(services, rollouts, candidate_of, self.settlement)
        self.jobs = RollbackJobs(services, linger_seconds=linger_seconds)
        self._resolving = threading.Lock()

    def begin(self, release_id: str, bundle_id: str) -> RolloutProgress:
        return self.starts.begin(release_id, bundle_id)

    def progress(self, release_ids: Sequence[str]) -> dict[str, RolloutProgress]:
        return {release_id: self.starts.progress(release_id) for release_id in release_ids}

    def end(self, release_id: str, *, reason: str) -> RolloutProgress:
        self.starts.stop(release_id)
        try:
            state = self._rollouts.read(release_id)
        except UnknownRelease:
            self.settlement.clear(self._services().releases.load(release_id))
            return self.starts.progress(release_id)
        if not state.phase.is_final and (reason or state.phase is Phase.PROGRESSING):
            why = reason or "the run ended before the rollout did"
            state = self._rollouts.roll_back(release_id, reason=why)
        return progress_of(state)

    def read(self, release_id: str) -> RolloutState:
        return self._rollouts.read(release_id)

    def roll_back(self, release_id: str, *, reason: str) -> RolloutState:
        return self._rollouts.roll_back(release_id, reason=reason)

    def finish_watch(self, release_id: str, *, reason: str = "the watch was ended early") -> RolloutState:
        return self._rollouts.finish_watch(release_id, reason=reason)

    def withdraw(self, release_id: str) -> RolloutState:
        self._rollouts.withdraw(release_id)
        return self._rollouts.read(release_id)

    def pause(self, release_id: str, request: ControlRequest) -> RolloutState:
        return freeze_enforcement.pause(self._services(), release_id, request)

    def resume(self, release_id: str, request: ControlRequest) -> RolloutState:
        return freeze_enforcement.control_of(self._services()).resume(release_id, request)

    def skip_hold(self, release_id: str, request: ControlRequest) -> RolloutState:
        return freeze_enforcement.control_of(self._services()).skip_hold(release_id, request)

    def roll_model_back(self, request: RollbackRequest) -> RollbackProgress:
        services = self._services()
        with self._resolving:
            # The same asked twice at once would be two.
            try:
                rollbacks.resolve(services, request)
            except Retryable:
                # Traffic waits for no ledger. What was asked for is written down when it can be.
                if between := rollbacks.return_before_books(services, request):
                    return self.jobs.owe(request, between)
                raise
        rollback = rollbacks.begin(services, request)
        # A run that somebody clears long after it was over says nothing of a hold that began since.
        if not request.is_from_alert and not rollbacks.is_carried_out(services, rollback.id):
            cooldowns.end_hold(services, request.model)
        return self.jobs.carry_out(rollback)

    def rollback(self, rollback_id: str) -> RollbackProgress:
        if owed := self.jobs.owed(rollback_id):
            return owed
        return rollbacks.progress_of(self._services(), rollback_id)

    def adopt(self, model: str, *, by: str, reason: str) -> Route:
        services = self._services()
        if self._take_what_runs is None:
            return services.router.read(model)
        # Written down first: without its entry nothing is adopted.
        entry = AuditEntry(now(), by, "adopt", model, reason=reasons.cleaned(reason), detail={"via": "cli"})
        audit_entries.trail_of(services).append(entry)
        return self._take_what_runs(model)
