"""What is not done by itself: trying a version again, a change right after a rollback, a third change.

A person may always ask; asking is what ends a hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from model_store.errors import Permanent
from model_store.release_spec import ReleaseSpec
from model_store.types import ModelRef
from serving.control.finalization import REASON, STATUS, VersionStatus
from serving.control.notes import NoteKind
from serving.control.release_deployment import route_of
from serving.control.releases import Cause, Release, Request
from serving.control.rollout.plan import Phase
from serving.control.wiring import Services, now
from serving.ledger.rows import NoteRow
from serving.ledger.rows import RequestRow as RequestRow

# Of a model whose spec is gone.
DEFAULT_COOLDOWN = timedelta(minutes=10)


class Admission(StrEnum):
    """NOW: go on. LATER: the model cools down. NEVER: nobody wants this release any more."""

    NOW = "now"
    LATER = "later"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class AdmissionAnswer:
    """Whether a request becomes a release, and why not. `until` is when to ask again."""

    admission: Admission
    words: str = ""
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class ModelHold:
    """Nothing is changed by itself any more, until a person releases or rolls back."""

    since: datetime
    why: str


def admit(
    services: Services, spec: ReleaseSpec, ref: ModelRef, request: Request, *, at: datetime
) -> AdmissionAnswer:
    """Whether this request may become a release of the version, which from then on counts as tried.

    Raises `Permanent` when a person asks again for a version that was rolled back, and does not say why.
    """
    if request.dry_run:
        return AdmissionAnswer(Admission.NOW)
    if request.cause.is_automatic:
        return _admit_automatic(services, spec, ref, request, at=at)
    _require_reason(services, ref, request)
    services.attempts.claim(ref, run_of(request), at=at)
    end_hold(services, ref.name)
    return AdmissionAnswer(Admission.NOW)


def withdraw_superseded(services: Services, release: Release, winner: str) -> None:
    """The release never came to its turn. Unless a person decided so, its version may be wanted again."""
    try:
        other = services.releases.load(winner)
    except Permanent:  # a rollback, which is a person's or an alert's decision
        return
    if release.request.cause.is_automatic and other.request.cause.is_automatic and other.ref != release.ref:
        services.attempts.withdraw(release.ref, run_of(release.request))


def record_not_admitted(services: Services, model: str, version: str, request: Request) -> None:
    """MLflow is away before the run could claim the version. If it stays away the run is over, and Airflow
    takes the name of the reconciler's run only once: the next one needs another."""
    if request.cause is Cause.RECONCILER and version.isdecimal():
        services.attempts.miss(ModelRef(model, int(version)), run_of(request))


def withdraw_not_begun(services: Services, release: Release) -> None:
    """The run fails before it did anything, MLflow being down: another may try."""
    if release.request.cause.is_automatic:
        services.attempts.withdraw(release.ref, run_of(release.request))


def discard_unrecorded(services: Services, release: Release) -> None:
    """What asked for it could not be written down: there is no such release, and its version is untried."""
    services.releases.forget(release)
    services.attempts.withdraw(release.ref, run_of(release.request))


def run_of(request: Request) -> str:
    return f"{request.dag_id}/{request.run_id}"


def refusal(services: Services, ref: ModelRef) -> str:
    """Why a version is not released by itself; empty if it may be."""
    tags = services.registry.describe(ref).tags
    if (status := tags.get(STATUS)) and status != VersionStatus.SUPERSEDED:
        why = f": {reason}" if (reason := tags.get(REASON)) else ""
        return f"{ref} was tried, and is {status}{why}. A person may release it again, and say why"
    route = route_of(services, ref.name)
    serving = {arm.version for arm in (route.stable, route.candidate) if arm} if route else set()
    return f"{ref} serves already" if ref.version in serving else ""


def cooldown_end(services: Services, model: str, cooldown: timedelta) -> datetime | None:
    """Until when nothing is changed by itself, None if the model was never rolled back."""
    last = last_rollback_at(services, model)
    return last + cooldown if last else None


def last_rollback_at(services: Services, model: str) -> datetime | None:
    """When traffic was last taken back from a version of this model, by whomever."""
    by_release = [
        state.step_started_at
        for state in services.journal.releases(model)
        if state.phase is Phase.ROLLED_BACK and state.previous_version is not None
    ]
    asked_for = [row.at for row in services.rows.find(RequestRow, action="rollback", service=model)]
    return max([*by_release, *asked_for, *_requested_rollbacks(services, model)], default=None)


def note_rollback_requested(services: Services, model: str, *, at: datetime) -> None:
    """An alert's rollback was asked for; it has not begun yet."""
    services.notes.write(model, NoteKind.ASKED_BACK, {}, at=at)


def hold(services: Services, model: str, why: str, *, at: datetime) -> ModelHold:
    """From now on only people change what serves. Holding what is held changes nothing."""
    return read_hold(services.notes.write(model, NoteKind.HOLD, {"why": why}, at=at, anew=False))


def hold_on(services: Services, model: str) -> ModelHold | None:
    """Since when and why nothing is changed by itself, None if it may be."""
    found = services.notes.find(model, NoteKind.HOLD)
    return read_hold(found) if found else None


def read_hold(note: NoteRow) -> ModelHold:
    return ModelHold(note.at, str(note.document["why"]))


def end_hold(services: Services, model: str) -> None:
    """A person took over."""
    services.notes.end(model, NoteKind.HOLD, at=now())


def _admit_automatic(
    services: Services, spec: ReleaseSpec, ref: ModelRef, request: Request, *, at: datetime
) -> AdmissionAnswer:
    mine = services.attempts.of(ref) == run_of(request)
    if not mine and (why := refusal(services, ref)):
        return AdmissionAnswer(Admission.NEVER, why)
    if hold := hold_on(services, ref.name):
        return AdmissionAnswer(
            Admission.NEVER, f"{ref.name} is held since {_formatted(hold.since)}: {hold.why}"
        )
    until = cooldown_end(services, ref.name, cooldown_of(spec))
    if until and at < until:
        return AdmissionAnswer(
            Admission.LATER, f"{ref.name} was rolled back and cools down until {_formatted(until)}", until
        )
    if (run := services.attempts.claim(ref, run_of(request), at=at)) != run_of(request):
        return AdmissionAnswer(
            Admission.NEVER, f"{ref} was tried by {run}. A person may release it again, and say why"
        )
    return AdmissionAnswer(Admission.NOW)


def cooldown_of(spec: ReleaseSpec) -> timedelta:
    return timedelta(seconds=spec.rollout.cooldown_seconds)


def _require_reason(services: Services, ref: ModelRef, request: Request) -> None:
    if request.reason.strip():
        # No question to MLflow: over the API this runs inside Airflow's transaction.
        return
    tags = services.registry.describe(ref).tags
    if tags.get(STATUS) == VersionStatus.ROLLED_BACK:
        raise Permanent(
            f"{ref} was rolled back: {tags.get(REASON, 'nobody wrote down why')}",
            remedy="say why it should get another try: trigger the release with a reason",
        )


def _requested_rollbacks(services: Services, model: str) -> list[datetime]:
    found = services.notes.find(model, NoteKind.ASKED_BACK)
    return [found.at] if found else []


def _formatted(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
