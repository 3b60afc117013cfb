"""The acting half of the REST API. Around a release: what would run, asking for it, approving it; who did
what, and who am I. Interfering with one: pause, resume, skip, abort, override, roll back, freeze.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from datetime import timedelta
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import Field

from serving import composition
from serving.control import freeze_enforcement, reasons
from serving.control.audit import AuditEntry
from serving.control.audit_entries import trail_of
from serving.control.freezes import Freezes
from serving.control.releases import NoSuchRelease, Release
from serving.control.rollout.control import ControlRequest
from serving.control.wiring import Services, now
from serving.web import interventions, release_requests
from serving.web.access import Admin, Approver, Person, Releaser, Right, SignedIn, Viewer
from serving.web.ports import InHost
from serving.web.problems import Conflict, NotFound, problems
from serving.web.release_requests import spec_of
from serving.web.schemas import (
    API,
    DIGEST,
    MODEL,
    VERSION,
    AcceptedRelease,
    AcceptedRollback,
    ApprovalAnswer,
    Body,
    ControlBody,
    EntryView,
    FreezeView,
    ModelName,
    ModelPath,
    OverrideView,
    PersonView,
    Preview,
    Reason,
    ReasonBody,
    ReleasePath,
    RunView,
    StateView,
    VersionName,
    When,
)

router = APIRouter(prefix=API, tags=["actions"])
freezes = APIRouter(prefix=f"{API}/freezes", tags=["freezes"])


class ReleaseBody(Body):
    """A version to release."""

    model: ModelName
    version: VersionName | None = Field(None, description="Left out: the alias that the spec names.")
    reason: Reason
    dry_run: bool = Field(False, description="Build, gate and publish, then end: no request is moved.")
    override_freeze: bool = Field(False, description="Roll out in spite of a freeze. Needs the right ADMIN.")
    expected_version: Annotated[int, Field(ge=1, le=999_999_999)] | None = Field(
        None,
        description="The version that the preview showed; if `version` names another one by now: 409.",
    )
    expected_digest: Annotated[str, Field(pattern=DIGEST)] | None = Field(
        None,
        description="The digest of the spec that the preview showed; if the spec is another by now: 409.",
    )


class ApprovalBody(ReasonBody):
    """An answer to a request for approval."""

    bundle: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")] | None = Field(
        None,
        description="The id of the bundle the person was shown; if another one is asked about by now: 409.",
    )


@router.get("/me", responses=problems(), summary="Who am I, and what may I do?")
def me(person: SignedIn) -> PersonView:
    """The person whom the token or cookie belongs to, and their rights."""
    return PersonView(name=person.name, rights=sorted(person.rights))


@router.get(
    "/releases/preview",
    responses=problems(404, 409, 422, 503),
    summary="What would run?",
)
def preview_release(
    person: Viewer,
    host: InHost,
    model: Annotated[str, Query(pattern=MODEL, description="The model's name in the registry.")],
    version: Annotated[
        str | None,
        Query(pattern=VERSION, description="A version number or alias; left out: the spec's alias."),
    ] = None,
) -> Preview:
    """The resolved version, the rollout's steps, who would be asked, the place in the queue, freezes, and
    whether the version serves or was tried. Starts nothing."""
    services = composition.wire()
    wanted = release_requests.resolve(services, host, person, model, version)
    return release_requests.preview(services, host.dags, wanted)


@router.post(
    "/releases",
    status_code=202,
    responses=problems(404, 409, 422, 503),
    summary="Release a version",
)
def release_version(
    body: ReleaseBody,
    person: SignedIn,
    host: InHost,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=100,
            pattern=r"^[\x21-\x7E]+$",
            description="Sent again by the same person, the release of the first time is returned.",
        ),
    ] = None,
) -> AcceptedRelease:
    """Start the model's release DAG. 409 while the same version is on its way, saying who asked for it, and
    when the version or the spec is not what `expected_version` and `expected_digest` say."""
    person.needs(Right.RELEASE, body.model)
    if body.override_freeze:
        person.needs(Right.ADMIN, body.model)
    services = composition.wire()
    wanted = release_requests.resolve(services, host, person, body.model, body.version)
    seen = release_requests.PreviewedVersion(body.expected_version, body.expected_digest)
    release, started = release_requests.start(
        services, host.dags, wanted, person, body.reason, dry_run=body.dry_run, key=idempotency_key, seen=seen
    )
    if release is None:
        raise Conflict("this key was used for a run that is no release", remedy="use another Idempotency-Key")
    if body.override_freeze:
        # A repeat makes up for what the first time did not get to, if anything is left to do.
        with suppress(Conflict) if started.again else nullcontext():
            interventions.override(services, host.dags, release, person, body.reason)
    response.headers["Location"] = f"/slipway{API}/releases/{release.id}"
    still = release_requests.start_blocker(host.dags, started.dag_id)
    return AcceptedRelease(
        release_id=release.id,
        model=release.model,
        version=release.version,
        run=RunView.of(started),
        repeated=started.again,
        stands_still=still.words if still else "",
        way_out=still.way_out if still else "",
    )


@router.post("/releases/{release_id}/approve", responses=problems(404, 409, 422), summary="Approve")
def approve(release_id: ReleasePath, body: ApprovalBody, person: Approver, host: InHost) -> ApprovalAnswer:
    """Let the release onto traffic, as Airflow's own page would: by somebody whom the spec names, who did
    neither make the version nor approve it before, and in time. It counts for the bundle that is asked about
    and for no other."""
    services, release = release_of(release_id)
    left = host.approvals.answer(services, release, person, body.reason, approve=True, bundle=body.bundle)
    return ApprovalAnswer(release_id=release.id, answer="approved", still_needed=left)


@router.post("/releases/{release_id}/reject", responses=problems(404, 409, 422), summary="Reject")
def reject(release_id: ReleasePath, body: ApprovalBody, person: Approver, host: InHost) -> ApprovalAnswer:
    """End the release before it gets traffic. Who may approve may reject."""
    services, release = release_of(release_id)
    left = host.approvals.answer(services, release, person, body.reason, approve=False, bundle=body.bundle)
    return ApprovalAnswer(release_id=release.id, answer="rejected", still_needed=left)


@router.get("/audit", responses=problems(422), summary="Who did what?")
def audit(
    person: SignedIn,
    model: Annotated[str | None, Query(pattern=MODEL, description="Only acts on this model.")] = None,
    since: Annotated[When | None, Query(description="Not before this moment.")] = None,
    until: Annotated[When | None, Query(description="Not after this moment.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = 100,
) -> list[EntryView]:
    """Every act of a person on models that you may see, the newest first."""
    person.needs_to_read(model)
    most = limit if person.may(Right.VIEW, model) else None
    found = trail_of(composition.wire()).entries(model, since, until, most)
    return [EntryView.of(entry) for entry in islice((e for e in found if person.sees(e.model)), limit)]


def release_of(release_id: str) -> tuple[Services, Release]:
    services = composition.wire()
    try:
        return services, services.releases.load(release_id)
    except NoSuchRelease:
        raise NotFound(f"there is no release {release_id}", remedy="look at the list of releases") from None


FreezeId = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$", description="The freeze's id.")]


class RollbackBody(Body):
    """Where to roll a model back to."""

    version: Annotated[int, Field(ge=1, le=999_999_999)] | None = Field(
        None, description="Left out: the version that served before the present one."
    )
    from_version: Annotated[int, Field(ge=1, le=999_999_999)] | None = Field(
        None,
        description="The version the person saw serving; if another one serves by now: 409.",
    )
    reason: Reason


class NewFreeze(Body):
    """From now on nothing rolls out."""

    model: ModelName | None = Field(None, description="Left out: every model.")
    hours: Annotated[float, Field(gt=0, le=8784)] | None = Field(
        None, description="For how long. Left out: until somebody lifts it."
    )
    reason: Reason


@router.post("/releases/{release_id}/pause", responses=problems(404, 409, 422, 503), summary="Pause")
def pause(release_id: ReleasePath, body: ControlBody, person: Releaser) -> StateView:
    """Keep the traffic split as it is. The controller still takes a failing candidate out."""
    services, release = release_of(release_id)
    return StateView.of(interventions.pause(services, release, _control_request(person, body), person))


@router.post("/releases/{release_id}/resume", responses=problems(404, 409, 422, 503), summary="Resume")
def resume(release_id: ReleasePath, body: ControlBody, person: Releaser, host: InHost) -> StateView:
    """Go on after a pause. What a freeze holds goes on by itself, or when an admin overrides the freeze."""
    services, release = release_of(release_id)
    return StateView.of(
        interventions.resume(services, host.dags, release, _control_request(person, body), person)
    )


@router.post("/releases/{release_id}/skip", responses=problems(404, 409, 422, 503), summary="Skip the hold")
def skip(release_id: ReleasePath, body: ControlBody, person: Releaser) -> StateView:
    """End the present step (or the watch) with its first passing verdict instead of sitting out its time.
    Refused while the verdict is FAIL or ERROR; too little evidence is still waited for."""
    services, release = release_of(release_id)
    return StateView.of(interventions.skip_hold(services, release, _control_request(person, body), person))


@router.post("/releases/{release_id}/abort", responses=problems(404, 409, 422, 503), summary="Abort")
def abort(release_id: ReleasePath, body: ReasonBody, person: Releaser, host: InHost) -> StateView:
    """End the release, wherever it stands. Traffic is back on stable when the answer comes."""
    services, release = release_of(release_id)
    state = interventions.abort(services, host.dags, release, person, body.reason)
    return StateView.of(state) if state else _never_begun(release, person)


@router.post(
    "/releases/{release_id}/override", responses=problems(404, 409, 422), summary="Override a freeze"
)
def override(release_id: ReleasePath, body: ReasonBody, person: Admin, host: InHost) -> OverrideView:
    """Let this one release pass every freeze."""
    services, release = release_of(release_id)
    made = interventions.override(services, host.dags, release, person, body.reason)
    return OverrideView(release_id=made.release_id, by=made.by, reason=made.reason, at=made.at)


@router.post(
    "/models/{model}/rollback",
    status_code=202,
    responses=problems(404, 409, 422, 503),
    summary="Roll a model back",
)
def roll_back(
    model: ModelPath, body: RollbackBody, person: Releaser, host: InHost, response: Response
) -> AcceptedRollback:
    """Back to the version before, or to a chosen one: at once where it stands by, else as soon as its pods
    answer. The controller does it; a run of `model_rollback` follows for the record. `Location` leads to how
    far it has come. No freeze holds it.
    """
    services = composition.wire()
    begun = interventions.roll_back(
        services, host.dags, model, person, body.reason, version=body.version, leaves=body.from_version
    )
    told = interventions.rollback_view(services, model, begun)
    where = (
        f"models/{model}/rollbacks/{told.rollback_id}" if told.rollback_id else f"releases/{told.release_id}"
    )
    response.headers["Location"] = f"/slipway{API}/{where}"
    return told


def _control_request(person: Person, body: ControlBody) -> ControlRequest:
    return ControlRequest(person.name, body.reason, body.generation)


def _never_begun(release: Release, person: Person) -> StateView:
    return StateView(
        release_id=release.id,
        model=release.model,
        version=release.version,
        phase="ended",
        step=-1,
        candidate_weight=0,
        paused="",
        hold_skipped=False,
        generation=0,
        reason=f"aborted by {person.name} before it had traffic",
    )


@freezes.get("", responses=problems(404, 422), summary="What is frozen now?")
def list_freezes(
    person: SignedIn,
    host: InHost,
    model: Annotated[str | None, Query(pattern=MODEL, description="Only what holds this model.")] = None,
) -> list[FreezeView]:
    """Every freeze in force: of the calendar, asked for by people and, for one model, of its spec."""
    person.needs_to_read(model)
    windows = spec_of(host.specs(), model, person.sees).freezes if model else ()
    found = _freezes(composition.wire()).in_force(model, windows, at=now())
    return [FreezeView.of(one) for one in found if person.sees(one.model)]


@freezes.post("", status_code=201, responses=problems(404, 422), summary="Freeze")
def freeze(body: NewFreeze, person: SignedIn, host: InHost) -> FreezeView:
    """Nothing rolls out from now on: releases wait, rollouts keep their split. Rollbacks are never held."""
    person.needs(Right.ADMIN, body.model)
    if body.model:
        spec_of(host.specs(), body.model, person.sees)
    services, at = composition.wire(), now()
    until = at + timedelta(hours=body.hours) if body.hours is not None else None
    detail = {"until": until.isoformat() if until else "until lifted"}
    entry = _entry(person.name, "freeze", body.model, body.reason, detail)
    made = _freezes(services).add(
        body.model, by=person.name, reason=body.reason, until=until, at=at, entry=entry
    )
    return FreezeView.of(made)


@freezes.post("/{freeze_id}/lift", responses=problems(404, 409, 422), summary="Lift a freeze, saying why")
def lift(freeze_id: FreezeId, body: ReasonBody, person: SignedIn) -> FreezeView:
    """End a freeze that a person asked for. Those of the calendar and of specs are ended in their files."""
    person.needs(Right.ADMIN)
    freezes = _freezes(composition.wire())
    standing = freezes.find(freeze_id)
    entry = _entry(
        person.name,
        "lift freeze",
        standing.model,
        body.reason,
        {"freeze": standing.id, "of": standing.by, "said": standing.reason},
    )
    return FreezeView.of(freezes.lift(freeze_id, by=person.name, at=now(), entry=entry))


@freezes.delete("/{freeze_id}", responses=problems(404, 409, 422), summary="Lift a freeze")
def delete(
    freeze_id: FreezeId,
    person: SignedIn,
    reason: Annotated[
        str, Query(pattern=reasons.PATTERN, min_length=1, max_length=reasons.LONGEST, description="Why.")
    ],
) -> FreezeView:
    """The same as `lift`, for those who like DELETE."""
    return lift(freeze_id, ReasonBody(reason=reason), person)


def _freezes(services: Services) -> Freezes:
    return freeze_enforcement.freezes_of(services)


def _entry(who: str, action: str, model: str | None, reason: str, detail: dict[str, str]) -> AuditEntry:
    return AuditEntry(now(), who, action, model, None, None, reason, {"via": "api", **detail})
