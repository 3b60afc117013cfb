"""The steps that write what became of a version: promoted, at the end of its release, rolled back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowSkipException

from model_store.types import ModelRef
from serving import composition
from serving.composition import opened
from serving.control import acting, evidence, flapping, going_back, rollback_books, rolling, settling, wiring
from serving.control.admission import give_up
from serving.control.building import Told
from serving.control.going_back import Wish
from serving.control.queries import outcomes
from serving.control.queries.outcomes import Outcome
from serving.control.reasons import cleaned
from serving.control.settling import Ending, Status
from slipway_airflow import assets, links, notifications
from slipway_airflow.causes import asked_by
from slipway_airflow.failures import reasons
from slipway_airflow.operators import ENDED, ENDED_AS

if TYPE_CHECKING:
    from airflow.sdk import Context

    from serving.control.releases import Release
    from serving.control.wiring import Services

log = logging.getLogger(__name__)


def promote(context: Context, release_id: str, bundle: str, gated: Sequence[str]) -> Told:
    """Evidence first, the alias last: whoever sees the champion can read why it is one."""
    services, release = opened(release_id)
    state = rolling.require_promoted(services, release)
    ending = Ending(Status.PROMOTED, state.reason)
    _write_down(context, services, release, ending, bundle, gated)
    rolling.move_champion(services, release)
    notifications.tell_of_ending(services, release, ending, at=wiring.now())
    give_up(services, release)
    return Told(release.id, f"{release.ref} is champion")


def settle(context: Context, release_id: str, bundle: str | None, gated: Sequence[str]) -> Told:
    """Traffic, pods and lock before anything that needs MLflow, which may be what failed."""
    services, release = opened(release_id)
    failures = reasons(context)
    ending = settling.settle_traffic(services, release, failures)
    if ending.status is Status.BLOCKED and (said := acting.who_ended(services, release)):
        # Tasks that were ended have no words of their own.
        ending = Ending(Status.BLOCKED, said)
    elif ending.status is Status.BLOCKED and not failures:
        ending = _ended_before_traffic(context) or ending
    give_up(services, release)
    if release.request.dry_run and not failures:
        return _end_dry_run(services, release, bundle, gated)
    if ending.status is not Status.PROMOTED:
        # Before the books: people are told also while MLflow is down.
        notifications.tell_of_ending(services, release, ending, at=wiring.now())
    _write_down(context, services, release, ending, bundle, gated)
    return Told(release.id, f"{release.ref} {ending.status.value}: {ending.reason}")


def _ended_before_traffic(context: Context) -> Ending | None:
    """What the task said that found that nothing was to be rolled out."""
    for task_id in ("rollout.deploy", "rollout.roll_out"):
        said, status = (context["ti"].xcom_pull(task_ids=task_id, key=key) for key in (ENDED, ENDED_AS))
        if said and status:
            return Ending(Status(status), said)
    return None


def _end_dry_run(services: Services, release: Release, bundle: str | None, gated: Sequence[str]) -> Told:
    """Nothing was moved, so there is nothing to settle; but that it ended well is nobody's to guess."""
    words = f"a dry run: bundle {bundle} is published, traffic is not touched"
    ended = Outcome(release.id, "dry_run", words, wiring.now(), bundle or "", tuple(gated or ()))
    outcomes.keep(services.releases.root, release.model, ended)
    return Told(release.id, words)


def begin_rollback(context: Context) -> Told:
    """The value is the rollback's id."""
    services = composition.wire()
    wish = _wish(context)
    if not going_back.is_from_alert(wish):
        flapping.let_go(services, wish.model)
    rollback = _begun(services, wish)
    try:
        _write_about(services, rollback)
    except OSError as problem:
        # Users do not wait for it. `book_rollback` writes it when they are back.
        log.warning("who asked for %s is not written down yet: %s", rollback.id, problem)
    now_serves = "serves again" if going_back.serving(services, rollback) else "has to be started again"
    return Told(rollback.id, f"version {rollback.leaves} leaves, version {rollback.returns} {now_serves}")


def switch_back(rollback_id: str, deployment: str) -> Told:
    services = composition.wire()
    rollback = going_back.load(services, rollback_id)
    going_back.switch(services, rollback, deployment)
    return Told(rollback.id, f"version {rollback.returns} has all traffic")


def book_rollback(context: Context, rollback_id: str) -> Told:
    services = composition.wire()
    rollback = going_back.load(services, rollback_id)
    booked = rollback_books.book(services, rollback, at=wiring.now())
    _write_about(services, rollback)
    if booked.evidence:
        links.point(context, links.EvidenceLink, booked.evidence.url)
    if booked.has_returned:
        version = ModelRef(rollback.model, rollback.returns)
        links.point(context, links.ModelVersionLink, services.registry.version_url(version))
    changed = assets.serving_asset(rollback.model)
    context["outlet_events"][assets.ROLLED_BACK].add(changed, extra={"version": str(rollback.returns)})
    return Told(rollback.id, booked.words)


def let_go(rollback_id: str) -> Told:
    services = composition.wire()
    rollback = going_back.load(services, rollback_id)
    going_back.let_go(services, rollback)
    return Told(rollback.id, "the next release may begin")


def _begun(services: Services, wish: Wish) -> going_back.Rollback:
    try:
        return going_back.begin(services, wish)
    except going_back.Overtaken as overtaken:
        if going_back.is_from_alert(wish):
            # What the alert asked for is done, and no person waits for an answer.
            raise AirflowSkipException(str(overtaken)) from overtaken
        raise


def _write_about(services: Services, rollback: going_back.Rollback) -> None:
    """Who did it, for the audit trail, and what people are told. May be repeated."""
    acting.note_rollback(services, rollback)
    notifications.tell_of_rollback(services, rollback, at=wiring.now())


def _wish(context: Context) -> Wish:
    run, params = context["dag_run"], context["params"]
    return Wish(
        model=params["model"],
        version=int(params["version"]) if params.get("version") else None,
        reason=cleaned(params.get("reason")) or "no reason given",
        incident=cleaned(params.get("incident")),
        by=asked_by(run),
        run_id=run.run_id,
        at=run.run_after,
    )


def _write_down(
    context: Context,
    services: Services,
    release: Release,
    ending: Ending,
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
    settling.book(services, release, ending, bundle_id=bundle)
