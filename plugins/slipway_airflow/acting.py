"""What a person's act leaves in the audit trail, wherever they acted: page, API, Airflow, command line.

A run or an answer has one entry. Who acts through Slipway writes it before the act has its effect; a task
that finds none writes it for those who used Airflow's own pages. A task that is repeated finds its own.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from model_store.errors import Permanent
from serving.audit import AuditTrail, Entry
from slipway_airflow.wiring import Services, now

if TYPE_CHECKING:
    from slipway_airflow.going_back import Rollback
    from slipway_airflow.releases import Release

# Airflow's words for a run that no person started begin so (`operators._request`, `booking._wish`).
_NOBODY = "airflow ("
# How far clocks of those who write may be apart.
_SLACK = timedelta(minutes=10)


def trail_of(services: Services) -> AuditTrail:
    return AuditTrail(services.home.audit)


def note_release(services: Services, release: Release) -> None:
    """A person started the release's run in Airflow. A schedule or an event is no person's act."""
    asked = release.request
    entry = Entry(
        now(),
        asked.by,
        "release",
        release.model,
        release.version,
        release.id,
        asked.reason,
        {"via": "airflow", "run_id": asked.run_id},
    )
    if not (asked.cause.is_automatic or asked.by.startswith(_NOBODY)):
        _note_once(services, entry, since=asked.at, same="run_id")


def note_rollback(services: Services, rollback: Rollback) -> None:
    """A person started a rollback's run in Airflow."""
    from slipway_airflow import going_back

    wish = rollback.wish
    entry = Entry(
        now(),
        wish.by,
        "rollback",
        rollback.model,
        rollback.returns,
        None,
        wish.reason,
        {"via": "airflow", "run_id": wish.run_id, "leaves": str(rollback.leaves)},
    )
    if not (going_back.is_from_alert(wish) or wish.by.startswith(_NOBODY)):
        _note_once(services, entry, since=wish.at, same="run_id")


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
    entry = Entry(at, who, action, release.model, release.version, release.id, reason, detail)
    if _last_answer(services, entry) != action:
        trail_of(services).append(entry)


def approvers_of(services: Services, release: Release, bundle: str) -> list[str]:
    """Those the spec names whose last answer to this very bundle was yes; who said so first comes first.

    An answer to other bytes says nothing of these, and what Airflow knows of a task anybody may set who may
    run tasks: only the audit trail counts.
    """
    approval = release.spec.approval
    if approval is None or not bundle:
        return []
    answers: dict[str, str] = {}
    for entry in reversed(trail_of(services).entries(release.model, release_id=release.id)):
        # Under some logins an account's name is not what the spec names it by.
        named = {entry.who, entry.detail.get("account")} & set(approval.approvers)
        if entry.action in ("approve", "reject") and entry.detail.get("bundle") == bundle:
            answers |= dict.fromkeys(sorted(filter(None, named)), entry.action)
    return [who for who, answer in answers.items() if answer == "approve"]


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


def who_ended(services: Services, release: Release) -> str:
    """Who aborted or rejected the release, when and why; empty if nobody did.

    What was said before its run (was cleared and) published a bundle again ended the run of then.
    """
    since = release.bundles[-1].at if release.bundles else None
    for entry in trail_of(services).entries(release.model, since=since, release_id=release.id):
        if entry.action in ("abort", "reject"):
            return f"{entry.action}ed by {entry.who} at {entry.at:%Y-%m-%d %H:%M:%S} UTC: {entry.reason}"
    return ""


@contextmanager
def one_at_a_time(services: Services, model: str) -> Iterator[None]:
    """Of two people who act on a model at once, the second sees what the first did."""
    folder = services.home.releases / model
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".acting.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _last_answer(services: Services, entry: Entry) -> str:
    """What this account said last in this task about this bundle: approve, reject, or nothing."""
    same = ("task", "account", "bundle")
    for known in trail_of(services).entries(entry.model, release_id=entry.release_id):
        if known.action in ("approve", "reject") and all(
            known.detail.get(name) == entry.detail[name] for name in same
        ):
            return known.action
    return ""


def _note_once(services: Services, entry: Entry, *, since: datetime, same: str) -> None:
    """Unless there is an entry of this act: of the same release or model, with the same `same` in detail."""
    trail = trail_of(services)
    for known in trail.entries(model=entry.model, since=since - _SLACK):
        if (
            known.action == entry.action
            and known.release_id in (None, entry.release_id)
            and known.detail.get(same) == entry.detail[same]
        ):
            return
    trail.append(entry)
