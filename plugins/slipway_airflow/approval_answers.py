"""Answers to a request for approval, through Airflow's own human-in-the-loop record.

What Airflow's own page does with an answer happens here too, by the same function; before it, what that page
does not look at: whether the time to answer is over. Who may answer is fixed in the record: those the spec
names, without the version's author and those who answered before.
"""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager
from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
from airflow.models.hitl import HITLDetail
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from fastapi import HTTPException
from sqlalchemy import select
from sqlalchemy.orm import Session

from serving.control.audit import AuditEntry
from serving.control.audit_entries import approvers_of, ended_by, exclusively, refusal_to_approve, trail_of
from serving.control.releases import Release
from serving.control.wiring import Services, now
from serving.web.access import Person
from serving.web.problems import Conflict, Forbidden
from slipway_airflow import dag_runs
from slipway_airflow.airflow_runs import bundle_shown

APPROVE, REJECT = "Approve", "Reject"
_LOOK = "look at the release again"
# Airflow keeps a request when its task is cleared, with the answer it got, until the task asks again.
_TO_COME = (None, TaskInstanceState.UP_FOR_RETRY)


def answer(
    services: Services, release: Release, person: Person, reason: str, *, approve: bool, bundle: str | None
) -> int:
    """Answer the open request of this release, as `serving.web.ports.Approvals` says."""
    with exclusively(services, release.model), create_session(scoped=False) as session:
        asked = _requests(session, release)
        now_open = next((one for one in asked if _is_open(one)), None)
        if now_open is None:
            raise Conflict(_why_closed(services, session, release, asked), remedy=_LOOK)
        _refuse_late(now_open)
        _refuse_stranger(now_open, person)
        _refuse_other(release, bundle_shown(now_open.params), bundle)
        if approve:
            _refuse_self_and_twice(services, release, person, now_open)
        # Written down first: an answer that nobody can account for must not count.
        _note(services, release, person, reason, now_open, approve=approve)
        _respond(session, now_open, person, reason, approve=approve)
        shown = bundle_shown(now_open.params)
    required = release.spec.approval.required if release.spec.approval else 1
    return max(0, required - len(approvers_of(services, release, shown))) if approve else 0


def _requests(session: Session, release: Release) -> list[HITLDetail]:
    """Of this release's run, in the order in which they are asked.

    Their tasks are locked, as Airflow does it before it takes an answer or clears a task: none is cleared
    between what is looked at here and what is written.
    """
    found = session.scalars(
        select(HITLDetail)
        .join(TaskInstance, HITLDetail.ti_id == TaskInstance.id)
        .where(TaskInstance.dag_id == release.request.dag_id, TaskInstance.run_id == release.request.run_id)
        .order_by(TaskInstance.task_id)
        .with_for_update(of=TaskInstance)
    )
    return list(found.unique())


def _is_open(asked: HITLDetail) -> bool:
    return not asked.response_received and asked.task_instance.state == TaskInstanceState.AWAITING_INPUT


def _refuse_late(asked: HITLDetail) -> None:
    """Airflow ends what is late only every few seconds, and would take an answer until then."""
    limit = asked.task_instance.trigger_timeout
    if limit is not None and limit <= now():
        raise Conflict(
            f"the time to answer ended at {limit:%Y-%m-%d %H:%M:%S} UTC", remedy="release it again"
        )


def _refuse_stranger(asked: HITLDetail, person: Person) -> None:
    allowed = {one["id"] for one in asked.assigned_users}
    if not allowed:
        return
    is_named = not allowed.isdisjoint({person.name, str(person.user.get_id())})
    manager: BaseAuthManager[Any] = get_auth_manager()
    if not (is_named and manager.is_authorized_hitl_task(assigned_users=allowed, user=person.user)):
        raise Forbidden(
            f"{person.name} is not one of those who may answer: {', '.join(sorted(allowed))}",
            remedy="ask one of them; the author of a version and who approved it before are never among them",
        )


def _refuse_self_and_twice(services: Services, release: Release, person: Person, asked: HITLDetail) -> None:
    why = refusal_to_approve(
        services,
        release,
        who=person.name,
        account=str(person.user.get_id()),
        bundle=bundle_shown(asked.params),
        task=asked.task_instance.task_id,
    )
    if why:
        raise Forbidden(why, remedy="ask somebody else")


def _refuse_other(release: Release, shown: str, seen: str | None) -> None:
    """The run was repeated since this person looked, and built something else."""
    if seen is not None and seen != shown:
        raise Conflict(
            f"{release.id} asks about bundle {shown} now, and you were shown bundle {seen}",
            remedy="look at the evidence of the new bundle, then answer again",
        )


def _respond(session: Session, asked: HITLDetail, person: Person, reason: str, *, approve: bool) -> None:
    instance = asked.task_instance
    fields = {"reason": reason, "bundle": bundle_shown(asked.params)}
    said = {name: value for name, value in fields.items() if name in (asked.params or {})}
    payload = UpdateHITLDetailPayload(chosen_options=[APPROVE if approve else REJECT], params_input=said)
    try:
        update_hitl_detail(
            dag_id=instance.dag_id,
            dag_run_id=instance.run_id,
            task_id=instance.task_id,
            update_hitl_detail_payload=payload,
            user=person.user,
            session=session,
            map_index=instance.map_index,
        )
    except HTTPException as refused:
        if refused.status_code == 409:
            raise Conflict(_answered(asked), remedy=_LOOK) from refused
        raise Forbidden(str(refused.detail), remedy="ask somebody who may") from refused


def _note(
    services: Services, release: Release, person: Person, reason: str, asked: HITLDetail, *, approve: bool
) -> None:
    detail = {
        "via": "api",
        "task": asked.task_instance.task_id,
        "account": str(person.user.get_id()),
        "bundle": bundle_shown(asked.params),
    }
    action = "approve" if approve else "reject"
    entry = AuditEntry(now(), person.name, action, release.model, release.version, release.id, reason, detail)
    trail_of(services).append(entry)


def _why_closed(services: Services, session: Session, release: Release, asked: list[HITLDetail]) -> str:
    if any(one.task_instance.state in _TO_COME for one in asked):
        return f"{release.id} asks nobody now: its run was repeated, and will ask when it gets there"
    if answered := [one for one in asked if one.response_received]:
        return _answered(answered[-1])
    if said := _ended(session, release) or ended_by(services, release):
        return f"{release.id} is over: {said}"
    state = dag_runs.state_of(release.request.dag_id, release.request.run_id)
    if state in ("queued", "running"):
        return f"{release.id} asks nobody now: " + (
            "it is not there yet" if release.spec.approval else "its spec asks for no approval"
        )
    return f"{release.id} is over: its run {state or 'is gone'}"


def _answered(asked: HITLDetail) -> str:
    chosen = ", ".join(asked.chosen_options or ())
    said = {APPROVE: "approved", REJECT: "rejected"}.get(chosen, chosen)
    at = f"{asked.responded_at:%Y-%m-%d %H:%M:%S} UTC" if asked.responded_at else "just now"
    if user := asked.responded_by_user:
        return f"{user['name']} {said} it at {at}"
    return f"nobody answered in time: it was {said} at {at}"


def _ended(session: Session, release: Release) -> str:
    """What the run said when its turn never came."""
    found = session.scalar(
        select(XComModel.value).where(
            XComModel.dag_id == release.request.dag_id,
            XComModel.run_id == release.request.run_id,
            XComModel.key == "ended",
        )
    )
    return str(found or "").strip('"')
