"""The REST API's acts: release, approve, pause, resume, skip, abort, override, roll back; who did what."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import Field

from serving import composition
from serving.control.audit_entries import trail_of
from serving.control.releases import Release
from serving.control.rollout.control import ControlRequest
from serving.control.wiring import Services
from serving.web import interventions, release_requests, rollback_responses
from serving.web.access import Person, Right, SignedIn, requires
from serving.web.fields import (
    API,
    DIGEST,
    MODEL,
    VERSION,
    Body,
    ControlBody,
    ModelName,
    ModelPath,
    Reason,
    ReasonBody,
    ReleasePath,
    VersionName,
)
from serving.web.ports import InHost
from serving.web.problems import Conflict, NotFound, problems
from serving.web.schemas import (
    AcceptedRelease,
    AcceptedRollback,
    ApprovalAnswer,
    EntryView,
    OverrideView,
    PersonView,
    Preview,
    RunView,
    StateView,
)
from serving.web.timestamps import When

router = APIRouter(prefix=API, tags=["actions"])

Releaser = Annotated[Person, Depends(requires(Right.RELEASE))]
Approver = Annotated[Person, Depends(requires(Right.APPROVE))]
Admin = Annotated[Person, Depends(requires(Right.ADMIN))]
Viewer = Annotated[Person, Depends(requires(Right.VIEW))]


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
    services, release = _release(release_id)
    left = host.approvals.answer(services, release, person, body.reason, approve=True, bundle=body.bundle)
    return ApprovalAnswer(release_id=release.id, answer="approved", still_needed=left)


@router.post("/releases/{release_id}/reject", responses=problems(404, 409, 422), summary="Reject")
def reject(release_id: ReleasePath, body: ApprovalBody, person: Approver, host: InHost) -> ApprovalAnswer:
    """End the release before it gets traffic. Who may approve may reject."""
    services, release = _release(release_id)
    left = host.approvals.answer(services, release, person, body.reason, approve=False, bundle=body.bundle)
    return ApprovalAnswer(release_id=release.id, answer="rejected", still_needed=left)


@router.post("/releases/{release_id}/pause", responses=problems(404, 409, 422, 503), summary="Pause")
def pause(release_id: ReleasePath, body: ControlBody, person: Releaser) -> StateView:
    """Keep the traffic split as it is. The guard still takes a failing candidate out."""
    services, release = _release(release_id)
    return StateView.of(interventions.pause(services, release, _control_request(person, body), person))


@router.post("/releases/{release_id}/resume", responses=problems(404, 409, 422, 503), summary="Resume")
def resume(release_id: ReleasePath, body: ControlBody, person: Releaser, host: InHost) -> StateView:
    """Go on after a pause. What a freeze holds goes on by itself, or when an admin overrides the freeze."""
    services, release = _release(release_id)
    return StateView.of(
        interventions.resume(services, host.dags, release, _control_request(person, body), person)
    )


@router.post("/releases/{release_id}/skip", responses=problems(404, 409, 422, 503), summary="Skip the hold")
def skip(release_id: ReleasePath, body: ControlBody, person: Releaser) -> StateView:
    """End the present step (or the watch) with its first passing verdict instead of sitting out its time.
    Refused while the verdict is FAIL or ERROR; too little evidence is still waited for."""
    services, release = _release(release_id)
    return StateView.of(interventions.skip_hold(services, release, _control_request(person, body), person))


@router.post("/releases/{release_id}/abort", responses=problems(404, 409, 422, 503), summary="Abort")
def abort(release_id: ReleasePath, body: ReasonBody, person: Releaser, host: InHost) -> StateView:
    """End the release, wherever it stands. Traffic is back on stable when the answer comes."""
    services, release = _release(release_id)
    state = interventions.abort(services, host.dags, release, person, body.reason)
    return StateView.of(state) if state else _never_begun(release, person)


@router.post(
    "/releases/{release_id}/override", responses=problems(404, 409, 422), summary="Override a freeze"
)
def override(release_id: ReleasePath, body: ReasonBody, person: Admin, host: InHost) -> OverrideView:
    """Let this one release pass every freeze."""
    services, release = _release(release_id)
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
    """Back to the version before, or to a chosen one. A release under way is rolled back at once; any other
    version returns by the DAG `model_rollback`. `Location` leads to how far it has come. No freeze holds it.
    """
    services = composition.wire()
    state, started = interventions.roll_back(
        services, host.dags, model, person, body.reason, version=body.version, leaves=body.from_version
    )
    told = rollback_responses.rollback_view(services, host.dags, model, state, started)
    where = (
        f"models/{model}/rollbacks/{told.rollback_id}" if told.rollback_id else f"releases/{told.release_id}"
    )
    response.headers["Location"] = f"/slipway{API}/{where}"
    return told


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


def _release(release_id: str) -> tuple[Services, Release]:
    services = composition.wire()
    path = services.releases.root / release_id.rpartition("-v")[0] / f"{release_id}.json"
    if not path.is_file():
        raise NotFound(f"there is no release {release_id}", remedy="look at the list of releases")
    return services, services.releases.load(release_id)


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
