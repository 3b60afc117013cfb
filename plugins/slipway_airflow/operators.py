"""The steps of a release that wait. Each looks, defers while there is nothing to do, and looks again.

`execute` and `resume` do the same: what they read tells where the release stands, so a task that is retried,
cleared or woken twice goes on from there.
"""

from __future__ import annotations

import inspect
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
    from airflow.triggers.base import BaseTrigger

    from serving.control.release_queue import QueuePosition
    from serving.control.releases import Release, Request
    from serving.control.wiring import Services

# What a task that ends as skipped hands on: why, and what became of the release (`VersionStatus`).
ENDED, ENDED_AS = "ended", "ended_as"


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
        """What a trigger wakes. `look` finds out for itself why."""
        links.forget(self)
        self.log.info("woken: %s", event)
        with translating_failures(context), working_time(context, f"{SECONDS}_resumed"):
            return self.look(context)

    @abstractmethod
    def look(self, context: Context) -> Any:
        """Return the task's result, fail, or `wait_for` something."""

    def end(self, context: Context, words: str, *, status: str = "superseded") -> NoReturn:
        """Nothing went wrong, and nothing more is to be done. `settle` finds how the release ended."""
        context["ti"].xcom_push(ENDED, words)
        context["ti"].xcom_push(ENDED_AS, status)
        raise AirflowSkipException(words)

    def wait_for(self, trigger: BaseTrigger) -> NoReturn:
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
    """Has the controller start the bundle's pods where no traffic is and, once they are warm, give them
    traffic step by step, as the verdicts allow. Returns the release's id.

    Fails when the release is rolled back, by whomever: a verdict, the controller, a person. Ends as skipped
    if this very bundle has all the traffic already.
    """

    template_fields: Sequence[str] = ("release", "bundle")

    def __init__(self, *, release: Any, bundle: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.release = release
        self.bundle = bundle

    def look(self, context: Context) -> str:
        from serving.composition import wire
        from serving.control import cooldowns, release_deployment
        from serving.control.traffic import RolloutPhase

        services = wire()
        release = services.releases.load(self.release)
        if release.request.dry_run:
            raise AirflowSkipException(f"dry run: bundle {self.bundle} is published, traffic is untouched")
        rollout = services.rollouts.begin(release.id, self.bundle)
        self.log.info("%s: %s", rollout.phase, rollout.words)
        if rollout.phase.goes_on:
            self.wait_for(triggers.RolloutTrigger(release.id))
        match rollout.phase:
            case RolloutPhase.SERVES_ALREADY:
                self.end(context, rollout.words, status="promoted")
            case RolloutPhase.SUPERSEDED:
                # If the alias comes back, so may a release of it.
                cooldowns.withdraw_not_begun(services, release)
                self.end(context, rollout.words)
            case RolloutPhase.ROLLED_BACK:
                raise release_deployment.RolledBack(release, rollout.words)
        return release.id
