"""Asking the controller for the rollback that a run of `model_rollback` is about, and telling people."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowSkipException

from model_store.errors import Retryable
from serving.control import audit_entries, notifications, rollbacks, wiring
from serving.control.reasons import cleaned
from serving.control.rollbacks import RollbackRequest
from serving.control.traffic import RollbackPhase, RollbackProgress
from slipway_airflow.causes import asked_by

if TYPE_CHECKING:
    from airflow.sdk import Context

    from serving.control.wiring import Services

log = logging.getLogger(__name__)


def ask_for_rollback(services: Services, context: Context) -> RollbackProgress:
    """Of what the run's form says. Asking again is asking how far it has come."""
    request = _rollback_request(context)
    try:
        progress = services.rollouts.roll_model_back(request)
    except rollbacks.AlreadyRolledBack as overtaken:
        if request.is_from_alert:
            # What the alert asked for is done, and no person waits for an answer.
            raise AirflowSkipException(str(overtaken)) from overtaken
        raise
    try:
        _tell(services, progress)
    except (OSError, Retryable, rollbacks.UnknownRollback) as problem:
        # Users do not wait for it. `record_rollback` writes it when they are back.
        log.warning("who asked for %s is not written down yet: %s", progress.id, problem)
    return progress


def _tell(services: Services, progress: RollbackProgress) -> None:
    """Who did it, at once; what became of it, once that is known."""
    rollback = rollbacks.load(services, progress.id)
    match progress.phase:
        case RollbackPhase.STARTING:
            audit_entries.note_rollback(services, rollback)
        case RollbackPhase.RETURNED:
            note_and_notify(services, rollback)
        case RollbackPhase.FAILED:
            audit_entries.note_rollback(services, rollback)
            notifications.notify_of_rollback(services, rollback, at=wiring.now(), failed=progress.words)


def note_and_notify(services: Services, rollback: rollbacks.RequestedRollback) -> None:
    """Who did it, for the audit trail, and what people are told. May be repeated.

    What the controller did by itself is no person's act, and it told people of it.
    """
    if rollback.request.is_from_controller:
        return
    audit_entries.note_rollback(services, rollback)
    notifications.notify_of_rollback(services, rollback, at=wiring.now())


def _rollback_request(context: Context) -> RollbackRequest:
    run, params = context["dag_run"], context["params"]
    return RollbackRequest(
        model=params["model"],
        version=int(params["version"]) if params.get("version") else None,
        reason=cleaned(params.get("reason")) or "no reason given",
        incident=cleaned(params.get("incident")),
        by=asked_by(run),
        run_id=run.run_id,
        at=run.run_after,
    )
