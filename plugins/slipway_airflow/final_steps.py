"""The steps that write what became of a version: promoted, at the end of its release, rolled back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.errors import Permanent, SlipwayError
from model_store.release_spec import load_all
from model_store.steps import StepResult
from model_store.types import ModelRef
from serving import composition
from serving.composition import opened
from serving.control import (
    audit_entries,
    evidence,
    finalization,
    notifications,
    release_deployment,
    rollback_records,
    rollbacks,
    wiring,
)
from serving.control.finalization import ReleaseEnd, VersionStatus
from serving.control.queries import outcomes
from serving.control.queries.outcomes import ReleaseOutcome
from serving.control.release_queue import release_lock
from slipway_airflow import assets, links, run_states
from slipway_airflow.failures import reasons
from slipway_airflow.operators import ENDED, ENDED_AS
from slipway_airflow.rollback_steps import note_and_notify

if TYPE_CHECKING:
    from airflow.sdk import Context

    from serving.control.releases import Release
    from serving.control.rollout.plan import RolloutState
    from serving.control.wiring import Services

log = logging.getLogger(__name__)


def promote(context: Context, release_id: str, bundle: str, gated: Sequence[str]) -> StepResult:
    """Evidence first, the alias last: whoever sees the champion can read why it is one."""
    services, release = opened(release_id)
    state = release_deployment.require_promoted(services, release)
    ending = ReleaseEnd(VersionStatus.PROMOTED, state.reason)
    _record(context, services, release, ending, bundle, gated)
    release_deployment.move_champion(services, release)
    notifications.notify_of_outcome(services, release, ending, at=wiring.now())
    release_lock(services, release)
    return StepResult(release.id, f"{release.ref} is champion")


def finalize(context: Context, release_id: str, bundle: str | None, gated: Sequence[str]) -> StepResult:
    """Traffic, pods and lock before anything that needs MLflow, which may be what failed."""
    services, release = opened(release_id)
    failures = reasons(context)
    end_stage_pods(services, release)
    ending = finalization.finalize_traffic(services, release, failures)
    if ending.status is VersionStatus.BLOCKED and (said := audit_entries.ended_by(services, release)):
        # Tasks that were ended have no words of their own.
        ending = ReleaseEnd(VersionStatus.BLOCKED, said)
    elif ending.status is VersionStatus.BLOCKED and not failures:
        ending = _ended_before_traffic(context) or ending
    release_lock(services, release)
    if release.request.dry_run and not failures:
        return _end_dry_run(services, release, bundle, gated)
    if ending.status is not VersionStatus.PROMOTED:
        # Before the books: people are told also while MLflow is down.
        notifications.notify_of_outcome(services, release, ending, at=wiring.now())
    if not (ending.status is VersionStatus.PROMOTED and _is_recorded(services, release)):
        _record(context, services, release, ending, bundle, gated)
    return StepResult(release.id, f"{release.ref} {ending.status.value}: {ending.reason}")


def end_stage_pods(services: Services, release: Release) -> None:
    """Whatever of the build is left in a cluster: of tasks that were marked as done, or whose worker is gone.

    What cannot be ended now, `store_upkeep` ends later: a release's end does not wait for it.
    """
    if release.spec.build.place == "local":
        return
    try:
        if left := composition.stage_cluster_of(services.home).end_all(release.id):
            log.warning("ended pods that were left of the build: %s", ", ".join(left))
    except SlipwayError as error:
        log.warning("whether pods are left of the build is not known: %s", error)


def end_orphaned_pods(specs: Path) -> list[str]:
    """Of every release that is over; the pods' names. Asks no cluster where no spec builds in one."""
    if all(spec.build.place == "local" for spec in load_all(specs).specs):
        return []
    services = composition.wire()

    def is_over(release_id: str) -> bool:
        try:
            asked = services.releases.load(release_id).request
        except Permanent:
            return True
        return run_states.is_over(asked.dag_id, asked.run_id)

    return composition.stage_cluster_of(services.home).end_orphans(is_over)


def _is_recorded(services: Services, release: Release) -> bool:
    """Whether `promote` has told MLflow everything."""
    known = outcomes.of(services.rows, release.id)
    return known is not None and known.status == VersionStatus.PROMOTED and bool(known.evidence_url)


def _ended_before_traffic(context: Context) -> ReleaseEnd | None:
    """What the task said that found that nothing was to be rolled out."""
    ti = context["ti"]
    said, status = (ti.xcom_pull(task_ids="rollout.roll_out", key=key) for key in (ENDED, ENDED_AS))
    return ReleaseEnd(VersionStatus(status), said) if said and status else None


def _end_dry_run(
    services: Services, release: Release, bundle: str | None, gated: Sequence[str]
) -> StepResult:
    """Nothing was moved, so there is nothing to settle; but that it ended well is nobody's to guess."""
    words = f"a dry run: bundle {bundle} is published, traffic is not touched"
    ended = ReleaseOutcome(release.id, "dry_run", words, wiring.now(), bundle or "", tuple(gated or ()))
    outcomes.save(services.rows, ended)
    return StepResult(release.id, words)


def record_rollback(context: Context, rollback_id: str) -> StepResult:
    services = composition.wire()
    rollback = rollbacks.load(services, rollback_id)
    booked = rollback_records.record(services, rollback, at=wiring.now())
    for state in rollbacks.taken_back(services, rollback):
        _correct_record(services, state)
    note_and_notify(services, rollback)
    if booked.evidence:
        links.point(context, links.EvidenceLink, booked.evidence.url)
    if booked.has_returned:
        version = ModelRef(rollback.model, rollback.returns)
        links.point(context, links.ModelVersionLink, services.registry.version_url(version))
    rollbacks.note_recorded(services, rollback)
    changed = assets.serving_asset(rollback.model)
    context["outlet_events"][assets.ROLLED_BACK].add(changed, extra={"version": str(rollback.returns)})
    return StepResult(rollback.id, booked.words)


def _correct_record(services: Services, state: RolloutState) -> None:
    """Of a release that was promoted and taken back within its watch: its own evidence and tags say so."""
    release = services.releases.load(state.release_id)
    known = outcomes.of(services.rows, release.id)
    if known is None or (known.status != VersionStatus.PROMOTED and known.evidence_url):
        return
    ending, bundle = ReleaseEnd(VersionStatus.ROLLED_BACK, state.reason), known.bundle_id
    finalization.record_in_registry(services, release, ending, bundle_id=bundle)
    evidence.write(services, release, ending, gated=known.gated, bundle_id=bundle, at=wiring.now())


def _record(
    context: Context,
    services: Services,
    release: Release,
    ending: ReleaseEnd,
    bundle: str | None,
    gated: Sequence[str],
) -> None:
    run = evidence.write(
        services, release, ending, gated=list(gated or ()), bundle_id=bundle, at=wiring.now()
    )
    links.point(context, links.EvidenceLink, run.url)
    links.point(context, links.ModelVersionLink, services.registry.version_url(release.ref))
    if evidence.data_docs(services, release).is_dir():
        links.point(context, links.DataDocsLink, evidence.data_docs_url(run))
    finalization.record_in_registry(services, release, ending, bundle_id=bundle)
