"""What a person's act leaves in the audit trail, wherever they acted: page, API, Airflow, command line.

A run or an answer has one entry. Who acts through Slipway writes it before the act has its effect; a task
that finds none writes it for those who used Airflow's own pages. A task that is repeated finds its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from model_store.errors import Permanent, Retryable, SlipwayError
from serving.control import reasons
from serving.control.audit import AuditEntry, AuditTrail
from serving.control.wiring import Services, now
from serving.ledger.base import Rows, StaleGeneration
from serving.ledger.changing import change
from serving.ledger.rows import NoteRow

if TYPE_CHECKING:
    from model_store.release_spec import Approval
    from serving.control.releases import Release
    from serving.control.rollbacks import RequestedRollback

# Airflow's words for a run that no person started begin so.
_NOBODY = "airflow ("
# How long one act on a model may keep the next one waiting; so often that one looks.
ACT_SECONDS, _LOOK_SECONDS = 30.0, 0.05
_ACTING = "acting"


def trail_of(services: Services) -> AuditTrail:
    return AuditTrail(services.rows, services.home.late)


def note_release(services: Services, release: Release) -> None:
    """A person started the release's run in Airflow. A schedule or an event is no person's act."""
    asked = release.request
    entry = AuditEntry(
        now(),
        asked.by,
        "release",
        release.model,
        release.version,
        release.id,
        reasons.cleaned(asked.reason),
        {"via": "airflow", "run_id": asked.run_id},
    )
    if not (asked.cause.is_automatic or asked.by.startswith(_NOBODY)):
        trail_of(services).append_once(entry, same="run_id", since=asked.at)


def note_rollback(services: Services, rollback: RequestedRollback) -> None:
    """A person started a rollback's run, in Airflow or over the API, whose line the disk may not have taken.

    Raises as `AuditTrail.append` where none is taken now.
    """
    request = rollback.request
    entry = AuditEntry(
        now(),
        request.by,
        "rollback",
        rollback.model,
        rollback.returns,
        None,
        reasons.cleaned(request.reason),
        {"via": "airflow", "run_id": request.run_id, "leaves": str(rollback.leaves)},
    )
    if not (request.is_from_alert or request.by.startswith(_NOBODY)):
        trail_of(services).append_once(entry, same="run_id", since=request.at)


def note_answer(
    services: Services,
    release: Release,
    *,
    who: str,
    account: str,
    approved: bool,
    reason: str,
    task: str,
    bundle: str,
    at: datetime,
) -> None:
    """A person answered a request for approval. `at`: when they did; `account`: the id of their login.

    `bundle`: the id of the one they were shown.
    """
    action = "approve" if approved else "reject"
    detail = {"via": "airflow", "task": task, "account": account, "bundle": bundle}
    entry = AuditEntry(at, who, action, release.model, release.version, release.id, reason, detail)
    if _last_answer(services, entry) != action:
        trail_of(services).append(entry)


def approvers_of(services: Services, release: Release, bundle: str) -> list[str]:
    """Those the spec names whose last answer to this very bundle was yes; who said so first comes first.

    An answer to other bytes says nothing of these, and what Airflow knows of a task anybody may set who may
    run tasks: only the audit trail counts.
    """
    return [name for name, answer in _answers(services, release, bundle).values() if answer == "approve"]


def name_in_spec(approval: Approval | None, who: str, account: str | None) -> str:
    """What the spec calls a person, empty if it does not: by name or, under some logins, by id."""
    approvers = approval.approvers if approval else ()
    return next((name for name in approvers if name in (who, account)), "")


def require_approvals(services: Services, release: Release, bundle: str) -> None:
    """Raises `Permanent` unless enough of the approvers approved this very bundle."""
    if (approval := release.spec.approval) is None:
        return
    missing = approval.required - len(approvers_of(services, release, bundle))
    if missing > 0:
        raise Permanent(
            f"{release.id} lacks {missing} of {approval.required} approvals of bundle {bundle}, whatever its "
            "tasks say",
            remedy="clear the run's tasks from `approve_1` on, or release the version again; and let them "
            f"answer: {', '.join(approval.approvers)}",
        )


def refusal_to_approve(
    services: Services, release: Release, *, who: str, account: str, bundle: str, task: str
) -> str:
    """Why this person's approval of the bundle in this task does not count, empty if it does.

    `account` is the id of their login. Who is named by name and may not approve was not asked; names say
    nothing of who is named by an id.
    """
    if _answers(services, release, bundle, but_in=task).get(who, ("", ""))[1] == "approve":
        return f"{who} approved it before"
    is_by_id = name_in_spec(release.spec.approval, who, account) not in ("", who)
    return f"{who} made the version" if is_by_id and who in services.registry.authors(release.ref) else ""


def _answers(
    services: Services, release: Release, bundle: str, *, but_in: str = ""
) -> dict[str, tuple[str, str]]:
    """What each approver last said of this bundle in any other task: how the spec calls them, and the answer.

    By person, so that somebody whom the spec names by name and by id counts once.
    """
    answers: dict[str, tuple[str, str]] = {}
    if release.spec.approval is None or not bundle:
        return answers
    for entry in reversed(trail_of(services).entries(release.model, release_id=release.id)):
        name = name_in_spec(release.spec.approval, entry.who, entry.detail.get("account"))
        is_other = not but_in or entry.detail.get("task") != but_in
        if (
            name
            and is_other
            and entry.action in ("approve", "reject")
            and entry.detail.get("bundle") == bundle
        ):
            answers[entry.who] = name, entry.action
    return answers


def ended_by(services: Services, release: Release) -> str:
    """Who aborted or rejected the release, when and why; empty if nobody did.

    What was said before its run (was cleared and) published a bundle again ended the run of then.
    """
    since = release.bundles[-1].at if release.bundles else None
    for entry in trail_of(services).entries(release.model, since=since, release_id=release.id):
        if entry.action in ("abort", "reject"):
            return f"{entry.action}ed by {entry.who} at {entry.at:%Y-%m-%d %H:%M:%S} UTC: {entry.reason}"
    return ""


class ActedOn(Retryable):
    """Somebody else acts on the model at this moment."""


@contextmanager
def exclusively(services: Services, model: str) -> Iterator[None]:
    """Of two people who act on a model at once, the second sees what the first did, on whatever machine.

    Who dies meanwhile lets the next one in after `ACT_SECONDS`. Raises `ActedOn` where somebody acts on it
    for longer than anybody waits. Where nothing can be written nobody is kept out: then traffic can be given
    back and nothing else be done.
    """
    try:
        mine = _begin_act(services.rows, model)
    except ActedOn:
        raise
    except (Retryable, OSError):
        yield
        return
    try:
        yield
    finally:
        with suppress(SlipwayError):
            _end_act(services.rows, model, mine)


def _begin_act(rows: Rows, model: str) -> str:
    mine, until = uuid4().hex, time.monotonic() + ACT_SECONDS
    while True:
        known = next(iter(rows.find(NoteRow, id=f"{model}/{_ACTING}")), None)
        is_taken = known and known.ended_at is None and now() < known.at + timedelta(seconds=ACT_SECONDS)
        if not is_taken:
            empty = NoteRow(id=f"{model}/{_ACTING}", model=model, kind=_ACTING, at=now())
            try:
                rows.save(replace(known or empty, at=now(), ended_at=None, document={"by": mine}))
                return mine
            except StaleGeneration:
                continue
        if time.monotonic() > until:
            raise ActedOn(f"somebody acts on {model} at this moment", remedy="try again", delay_seconds=1)
        time.sleep(_LOOK_SECONDS)


def _end_act(rows: Rows, model: str, mine: str) -> None:
    def ended(note: NoteRow) -> NoteRow | None:
        is_mine = note.document.get("by") == mine and note.ended_at is None
        return replace(note, ended_at=now()) if is_mine else None

    change(rows, NoteRow, f"{model}/{_ACTING}", ended)


def _last_answer(services: Services, entry: AuditEntry) -> str:
    """What this account said last in this task about this bundle: approve, reject, or nothing."""
    same = ("task", "account", "bundle")
    for known in trail_of(services).entries(entry.model, release_id=entry.release_id):
        if known.action in ("approve", "reject") and all(
            known.detail.get(name) == entry.detail[name] for name in same
        ):
            return known.action
    return ""
