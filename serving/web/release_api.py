"""The REST API around a release: what would run, asking for it, approving it; who did what, and who am I."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from pydantic import Field

from serving import composition
from serving.control.audit_entries import trail_of
from serving.control.releases import NoSuchRelease, Release
from serving.control.wiring import Services
from serving.web import interventions, release_requests
from serving.web.access import Approver, Right, SignedIn, Viewer
from serving.web.fields import (
    API,
    DIGEST,
    MODEL,
    VERSION,
    Body,
    ModelName,
    Reason,
    ReasonBody,
    ReleasePath,
    VersionName,
    When,
)
from serving.web.ports import InHost
from serving.web.problems import Conflict, NotFound, problems
from serving.web.schemas import (
    AcceptedRelease,
    ApprovalAnswer,
    EntryView,
    PersonView,
    Preview,
    RunView,
)

router = APIRouter(prefix=API, tags=["actions"])


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
