"""Rollouts that begin: pods where no traffic is, the route at weight 0, and the answers of a first version.

Each has a thread of its own until it may be given requests, so that a platform that hangs keeps no other
release waiting. Once a rollout has begun its state says where it stands, and a controller that was restarted
goes on from there; one whose pods were still being started is asked for again by its task.

What may get pods and traffic is the bundle that this release published, signed, judged, and approved.
Airflow's tasks hand on ids, and who may run tasks may hand on others or mark a task successful that failed.
So that is asked, before pods are started, of what only Slipway writes: the release's own record, the signed
manifest, and the audit trail.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from model_store.bundle.publishing import signed_manifest
from model_store.errors import Permanent, Retryable, SlipwayError
from serving.control import aliases, answers_through_gateway, audit_entries, release_deployment
from serving.control.controller.settlement import Settlement
from serving.control.release_queue import require_lock
from serving.control.releases import Release
from serving.control.rollout.advance import Rollouts
from serving.control.rollout.from_spec import plan_of, settings_of
from serving.control.rollout.plan import Phase, RolloutState
from serving.control.traffic import RolloutPhase, RolloutProgress
from serving.control.wiring import Services
from serving.gateway.router.base import Candidate
from serving.home import Home
from serving.types import Deployment, DeploymentId, Route

log = logging.getLogger("slipway.controller")

LOOK_SECONDS = 0.1
# Between two tries to ask a first version what the gates asked.
ASK_AGAIN_SECONDS = 1.0

CandidateOf = Callable[[Home, Route], Candidate]


class NotReady(Permanent):
    """Pods did not answer in time."""


@dataclass(slots=True)
class _Job:
    """`ended`: there is to be no rollout, and why."""

    release: Release
    bundle: str
    words: str = "its pods are being started"
    ended: RolloutProgress | None = None
    problem: SlipwayError | None = None
    is_stopped: bool = False
    # Held while its rollout is written down: after `stop` none begins.
    beginning: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread | None = None

    @property
    def progress(self) -> RolloutProgress:
        if self.problem:
            return RolloutProgress(self.release.id, RolloutPhase.FAILED, self.problem.problem)
        return self.ended or RolloutProgress(self.release.id, RolloutPhase.STARTING, self.words)


class RolloutJobs:
    """Those under way in this process."""

    def __init__(
        self,
        services: Callable[[], Services],
        rollouts: Rollouts,
        candidate_of: CandidateOf,
        settlement: Settlement,
    ) -> None:
        self._services, self._rollouts = services, rollouts
        self._candidate_of, self._settlement = candidate_of, settlement
        self._jobs: dict[str, _Job] = {}
        self._one_at_a_time = threading.Lock()

    def begin(self, release_id: str, bundle_id: str) -> RolloutProgress:
        """Begin, unless it is under way or over. Raises, once, what the last try failed with."""
        services = self._services()
        release = services.releases.load(release_id)
        state = release_deployment.state_of(services, release)
        if state and state.phase is not Phase.PROGRESSING:
            return progress_of(state)
        if state is None and release_deployment.serves_already(services, release, bundle_id):
            words = f"{release.ref} serves already, as bundle {bundle_id}"
            return RolloutProgress(release_id, RolloutPhase.SERVES_ALREADY, words)
        self._raise_problem(release_id)
        self._start(release, bundle_id, self._carry_out)
        return self.progress(release_id)

    def progress(self, release_id: str) -> RolloutProgress:
        """How far it has come."""
        services, job = self._services(), self._jobs.get(release_id)
        state = release_deployment.state_of_id(services, release_id)
        if state and (state.phase.is_final or not (job and job.problem)):
            return progress_of(state)
        return job.progress if job else RolloutProgress(release_id, RolloutPhase.UNKNOWN, "it has not begun")

    def stop(self, release_id: str) -> None:
        """Its run is over: no rollout of it begins any more."""
        with self._one_at_a_time:
            job = self._jobs.pop(release_id, None)
        if job:
            with job.beginning:
                job.is_stopped = True

    def resume(self, states: Iterable[RolloutState]) -> None:
        """Of rollouts under way, ask the first versions that nobody asks what the gates asked."""
        for state in states:
            if state.unproven and state.release_id not in self._jobs:
                try:
                    release = self._services().releases.load(state.release_id)
                    self._start(release, DeploymentId.parse(state.deployment_id).bundle_id, self._prove)
                except Exception:
                    # Its file may be torn, which is nobody else's trouble.
                    log.exception("%s is not asked what the gates asked", state.release_id)

    def join(self, timeout_seconds: float) -> None:
        """Wait for those under way."""
        for job in list(self._jobs.values()):
            if job.thread:
                job.thread.join(timeout_seconds)

    def _raise_problem(self, release_id: str) -> None:
        with self._one_at_a_time:
            job = self._jobs.get(release_id)
            if job is None or job.problem is None:
                return
            del self._jobs[release_id]
        raise job.problem

    def _start(self, release: Release, bundle_id: str, work: Callable[[_Job], None]) -> None:
        with self._one_at_a_time:
            if release.id in self._jobs:
                return
            job = self._jobs[release.id] = _Job(release, bundle_id)
            name = f"rollout {release.id}"
            job.thread = threading.Thread(target=self._run, args=(job, work), daemon=True, name=name)
        job.thread.start()

    def _run(self, job: _Job, work: Callable[[_Job], None]) -> None:
        try:
            work(job)
        except SlipwayError as problem:
            log.warning("%s: %s", job.release.id, problem)
            job.problem = problem
        except Exception as problem:
            log.exception("%s", job.release.id)
            words = f"the controller failed at {job.release.id}: {type(problem).__name__}: {problem}"
            job.problem = Retryable(words, remedy="see its log")
        if job.problem is None and job.ended is None:
            with self._one_at_a_time:
                if self._jobs.get(job.release.id) is job:
                    del self._jobs[job.release.id]

    def _carry_out(self, job: _Job) -> None:
        services, release = self._services(), job.release
        has_begun = release_deployment.state_of(services, release) is not None
        if not has_begun and not self._may_begin(services, job):
            return
        ref = release_deployment.deploy(
            services, release, job.bundle, require_turn=lambda: require_lock(services, release)
        )
        deployment = self._ready(services, job, ref.id)
        if deployment is None:
            # It may have come to stand after its run had everything cleared away.
            self._settlement.clear(release)
        elif has_begun or self._begin(services, job, deployment):
            self._prove(job)

    def _may_begin(self, services: Services, job: _Job) -> bool:
        """It is what the release published, signed, passed and approved, whatever tasks hand on, and nobody
        took its turn or ended it, whose run may still have to hear of that. False where nobody wants it any
        more.
        """
        if said := audit_entries.ended_by(services, job.release):
            raise Permanent(f"{job.release.id} is over: {said}", remedy="release the version again")
        require_releasable(services, job.release, job.bundle)
        require_lock(services, job.release)
        if words := aliases.superseded_by(services, job.release):
            job.ended = RolloutProgress(job.release.id, RolloutPhase.SUPERSEDED, words)
        return job.ended is None

    def _ready(self, services: Services, job: _Job, deployment_id: str) -> Deployment | None:
        """What runs, once it is ready; None if it is not wanted any more."""
        limit = job.release.spec.serving.ready_timeout_seconds
        until = time.monotonic() + limit
        while not job.is_stopped:
            status = release_deployment.status_of(services, job.release.model, deployment_id)
            if status.is_ready:
                return release_deployment.deployment_of(services, job.release.model, deployment_id)
            job.words = f"its pods are not ready yet: {status.reason}"
            if time.monotonic() > until:
                raise NotReady(
                    f"the pods were not ready in {limit:g} s: {status.reason}",
                    remedy="look at their log (`slipway status`), or raise serving.ready_timeout_seconds in "
                    "the spec",
                )
            time.sleep(LOOK_SECONDS)
        return None

    def _begin(self, services: Services, job: _Job, deployment: Deployment) -> bool:
        release = job.release
        # A rollback that takes the turn looks for a rollout under the same lock; no platform is asked here.
        with audit_entries.exclusively(services, release.model), job.beginning:
            if job.is_stopped or not self._may_begin(services, job):
                self._settlement.clear(release)
                return False
            start(services, self._rollouts, release, deployment)
        return True

    def _prove(self, job: _Job) -> None:
        """Until it is proven or over: a rollout that waits too long for it is given up as any other."""
        services, release = self._services(), job.release
        while not job.is_stopped:
            state = release_deployment.state_of(services, release)
            if state is None or state.phase.is_final or not state.unproven:
                return
            try:
                words = answers_through_gateway.prove(services, release, self._candidate_of)
                self._rollouts.proven(release.id, reason=words)
                log.info("%s: %s", release.id, words)
            except answers_through_gateway.NotAsInTheGates as wrong:
                log.warning("%s: %s", release.id, wrong)
            except Retryable as problem:
                log.warning("%s: asking again: %s", release.id, problem)
                time.sleep(ASK_AGAIN_SECONDS)


def start(services: Services, rollouts: Rollouts, release: Release, deployment: Deployment) -> RolloutState:
    """Put the ready deployment into the route at weight 0 and begin. May be repeated.

    A first version gets no request before its answers through the gateway are the gates'.
    """
    route = release_deployment.route_of(services, release.model)
    is_first = route is None or route.stable is None
    unproven = is_first and answers_through_gateway.is_kept(release, deployment.bundle_id)
    plan, settings = plan_of(release.spec.rollout), settings_of(release.spec)
    return rollouts.start(release.id, plan, deployment, settings, unproven=unproven)


def progress_of(state: RolloutState) -> RolloutProgress:
    """Of a rollout that has begun."""
    at_step = f"step {state.step + 1} of {len(state.plan.steps)}: {state.split.candidate:g} %"
    words = at_step if state.phase is Phase.PROGRESSING else state.reason
    return RolloutProgress(state.release_id, RolloutPhase(state.phase.value), words)


class NotReleasable(Permanent):
    """This bundle is none that this release may put before users."""


def require_releasable(services: Services, release: Release, bundle_id: str) -> None:
    """Raises `NotReleasable` with what is wrong, `NotSigned`, and `Permanent` for approvals that lack."""
    audit_entries.require_approvals(services, release, bundle_id)
    if not release.bundles or release.bundles[-1].bundle_id != bundle_id:
        published = release.bundles[-1].bundle_id if release.bundles else "none"
        raise _refusal(release, bundle_id, f"it is not what the release published, which is {published}")
    manifest = signed_manifest(services.store, bundle_id)
    _require_this_version(release, bundle_id, manifest)
    failed = [check["name"] for check in manifest["report"]["checks"] if not check["passed"]]
    if failed:
        raise _refusal(release, bundle_id, f"its gates did not pass it: {', '.join(failed)}")


def _require_this_version(release: Release, bundle_id: str, manifest: dict[str, Any]) -> None:
    model = manifest["model"]
    if (model["name"], int(model["version"])) != (release.model, release.version):
        raise _refusal(release, bundle_id, f"it is {model['name']} v{model['version']}")


def _refusal(release: Release, bundle_id: str, why: str) -> NotReleasable:
    return NotReleasable(
        f"bundle {bundle_id or '(none)'} gets no traffic by {release.id}: {why}",
        remedy="clear the run from its first task; find out who set what its tasks hand on",
    )
