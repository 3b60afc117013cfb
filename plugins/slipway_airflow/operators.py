"""The steps of a release that wait. Each looks, defers while there is nothing to do, and looks again.

`execute` and `resume` do the same: what they read tells where the release stands, so a task that is retried,
cleared or woken twice goes on from there.
"""

from __future__ import annotations

import inspect
import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from model_store.errors import Permanent, Retryable
from model_store.release_spec import ReleaseSpec
from slipway_airflow import links, triggers
from slipway_airflow.failures import RetryByKind, translating_failures
from slipway_airflow.step import SECONDS, working_time

if TYPE_CHECKING:
    from airflow.sdk import Context

    from serving.control.release_queue import QueuePosition
    from serving.control.releases import Release, Request
    from serving.control.rollout.plan import RolloutState
    from serving.control.wiring import Services

# A pod starts within a second or two: waiting so long here costs less than deferring and coming back.
PATIENCE_SECONDS = 4.0
PROGRESS_LOOK_SECONDS = 0.5
# What a task that ends as skipped hands on: why, and what became of the release (`VersionStatus`).
ENDED, ENDED_AS = "ended", "ended_as"


class NotReady(Permanent):
    """Pods did not answer in time. `why`: what the platform said last."""

    def __init__(self, operator: BaseOperator, why: str) -> None:
        super().__init__(
            f"{operator.task_id}: the pods were not ready in time: {why}",
            remedy="look at their log (`slipway status`), or raise serving.ready_timeout_seconds in the spec",
        )


class WaitingOperator(BaseOperator):
    """An operator whose work is to look at something, and to defer while it is not yet so."""

    operator_extra_links = links.ALL
    ui_color = "#fdf3d8"

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("retry_policy", RetryByKind())
        kwargs.setdefault("doc_md", inspect.cleandoc(type(self).__doc__ or ""))
        super().__init__(**kwargs)

    def execute(self, context: Context) -> Any:
        links.forget(self)
        with translating_failures(context), working_time(context):
            return self.look(context)

    def resume(self, context: Context, event: str) -> Any:
        """What a trigger wakes. `look` finds out for itself why; only that time ran out has to be told."""
        links.forget(self)
        self.log.info("woken: %s", event)
        with translating_failures(context), working_time(context, f"{SECONDS}_resumed"):
            if event.startswith(triggers.LATE):
                raise NotReady(self, event.removeprefix(triggers.LATE).removeprefix(": "))
            return self.look(context)

    @abstractmethod
    def look(self, context: Context) -> Any:
        """Return the task's result, fail, or `wait_for` something."""

    def end(self, context: Context, words: str, *, status: str = "superseded") -> NoReturn:
        """Nothing went wrong, and nothing more is to be done. `settle` finds how the release ended."""
        context["ti"].xcom_push(ENDED, words)
        context["ti"].xcom_push(ENDED_AS, status)
        raise AirflowSkipException(words)

    def end_if_superseded(self, context: Context, services: Services, release: Release) -> None:
        """Before traffic: whether the alias that led to the release still names its version."""
        from serving.control import aliases, cooldowns

        if words := aliases.superseded_by(services, release):
            # If the alias comes back, so may a release of it.
            cooldowns.withdraw_not_begun(services, release)
            self.end(context, words)

    def wait_for(self, trigger: triggers.PollingTrigger) -> NoReturn:
        """Give the worker slot back until `trigger` wakes this task."""
        self.defer(trigger=trigger, method_name="resume")


class AcquireReleaseLock(WaitingOperator):
    """Fixes what the release is about, and waits until the model is free. Returns the release's id.

    A newer request supersedes one that waits, which then ends as skipped and says by whom.
    """

    def __init__(self, *, spec: ReleaseSpec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec

    def look(self, context: Context) -> str:
        from serving.composition import wire
        from serving.control import audit_entries
        from slipway_airflow import lock_steps
        from slipway_airflow.causes import request_of

        services, request = wire(), request_of(context, self.spec)
        release = services.releases.open(
            request, self.spec, lambda version: self._admitted(context, services, request, version)
        )
        self.log.info("%s: release %s", release.ref, release.id)
        with lock_steps.released_on_failure(context, services, release):
            audit_entries.note_release(services, release)
            links.point(context, links.ModelVersionLink, services.registry.version_url(release.ref))
            place = None if release.request.dry_run else lock_steps.acquire(services, release)
        if place is not None:
            self._wait_or_end(context, services, release, place)
        return release.id

    def _admitted(self, context: Context, services: Services, request: Request, version: str) -> int:
        """The version's number, if there is to be a release of it. Skips or waits where there is not."""
        from serving.control import cooldowns, wiring

        try:
            ref = services.registry.resolve(self.spec.model, version)
            answer = cooldowns.admit(services, self.spec, ref, request, at=wiring.now())
        except Retryable:
            cooldowns.record_not_admitted(services, self.spec.model, version, request)
            raise
        match answer.admission:
            case cooldowns.Admission.NEVER:
                self.end(context, answer.words)
            case cooldowns.Admission.LATER if answer.until:
                self.log.info("%s", answer.words)
                self.wait_for(triggers.CooldownTrigger(until=answer.until.timestamp()))
        return ref.version

    def _wait_or_end(
        self, context: Context, services: Services, release: Release, place: QueuePosition
    ) -> None:
        from serving.control.release_queue import QueueState
        from slipway_airflow import lock_steps

        self.log.info("%s", place.words)
        match place.turn:
            case QueueState.WAITING:
                self.wait_for(triggers.ReleaseLockTrigger(release.id))
            case QueueState.OVER:
                lock_steps.superseded(services, release, place)
                self.end(context, place.words)


class Deploy(WaitingOperator):
    """Starts the bundle's pods where no traffic is, and waits until they are warm.

    Returns the deployment's id. Ends as skipped if this very bundle has all the traffic already.
    """

    template_fields: Sequence[str] = ("release", "bundle")

    def __init__(self, *, release: Any, bundle: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.release = release
        self.bundle = bundle

    def look(self, context: Context) -> str:
        from serving.composition import wire
        from serving.control import audit_entries, release_deployment
        from serving.control.release_queue import require_lock

        services = wire()
        release = services.releases.load(self.release)
        if release.request.dry_run:
            raise AirflowSkipException(f"dry run: bundle {self.bundle} is published, traffic is untouched")
        if not (has_begun := release_deployment.state_of(services, release) is not None):
            audit_entries.require_approvals(services, release, self.bundle)
        if release_deployment.serves_already(services, release, self.bundle):
            self.end(context, f"{release.ref} serves already, as bundle {self.bundle}", status="promoted")
        if not has_begun:
            self.end_if_superseded(context, services, release)
            require_lock(services, release)
        deployment = release_deployment.deploy(services, release, self.bundle)
        limit = release.spec.serving.ready_timeout_seconds
        _wait_until_ready(self, services, release.model, deployment.id, limit)
        return deployment.id


class ReturnTraffic(WaitingOperator):
    """Has the controller give all traffic back to an earlier version, and waits until it has it.

    Returns the rollback's id. Who asked the controller before, asked for the same: it is named by the run.
    """

    def look(self, context: Context) -> str:
        from serving.composition import wire
        from serving.control.traffic import RollbackPhase
        from slipway_airflow import rollback_steps

        progress = rollback_steps.ask_for_rollback(wire(), context)
        self.log.info("%s: %s", progress.id, progress.words)
        match progress.phase:
            case RollbackPhase.STARTING:
                self.wait_for(triggers.RollbackTrigger(progress.id))
            case RollbackPhase.FAILED:
                raise Permanent(
                    f"requests do not go to version {progress.returns}: {progress.words}",
                    remedy=f"mend it, and roll back again: `./slipway rollback {progress.model}`",
                )
        return progress.id


class RollOut(WaitingOperator):
    """Gives the deployment traffic step by step, as the verdicts allow. Returns the release's id.

    Fails when the release is rolled back, by whomever: a verdict, the controller, a person.
    """

    template_fields: Sequence[str] = ("release", "deployment")

    def __init__(self, *, release: Any, deployment: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.release = release
        self.deployment = deployment

    def look(self, context: Context) -> str:
        from serving.composition import candidate_of, wire
        from serving.control import answers_through_gateway, audit_entries, release_deployment
        from serving.control.release_queue import require_lock
        from serving.types import DeploymentId

        services = wire()
        release = services.releases.load(self.release)
        if release_deployment.state_of(services, release) is None:
            self.end_if_superseded(context, services, release)
        # A rollback that takes the turn looks for a rollout under the same lock.
        with audit_entries.exclusively(services, release.model):
            if release_deployment.state_of(services, release) is None:
                audit_entries.require_approvals(
                    services, release, DeploymentId.parse(self.deployment).bundle_id
                )
                require_lock(services, release)
            state = release_deployment.start_rollout(services, release, self.deployment)
        if state.unproven:
            self.log.info("%s", answers_through_gateway.prove(services, release, candidate_of))
            state = services.journal.load(release.id)
        _follow(self, state, while_in="progressing", seconds=PROGRESS_LOOK_SECONDS)
        release_deployment.require_not_rolled_back(release, state)
        return release.id


def _wait_until_ready(
    operator: WaitingOperator, services: Services, model: str, deployment: str, limit_seconds: float
) -> None:
    """Return when the pods answer. Waits a little here, then defers."""
    from serving.control.release_deployment import status_of

    started = time.time()
    while not (status := status_of(services, model, deployment)).is_ready:
        if time.time() - started > PATIENCE_SECONDS:
            operator.log.info("not ready yet: %s", status.reason)
            until = started + limit_seconds
            operator.wait_for(triggers.ReadyTrigger(model, deployment, until=until))
        time.sleep(0.1)


def _follow(operator: WaitingOperator, state: RolloutState, *, while_in: str, seconds: float) -> None:
    """Defer while the rollout is in this phase; the controller moves it on."""
    if state.phase == while_in:
        operator.wait_for(triggers.RolloutTrigger(state.release_id, while_in, seconds))
