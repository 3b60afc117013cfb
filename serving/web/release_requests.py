"""Asking for a release: what would run, whether anything stands in its way, and starting it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model_store.errors import SlipwayError
from model_store.release_spec import ReleaseSpec, load_all
from model_store.types import ModelRef
from serving.control import cooldowns, freeze_enforcement, paused_dags
from serving.control.audit import AuditEntry
from serving.control.audit_entries import exclusively, trail_of
from serving.control.blockers import Blocker, BlockerKind
from serving.control.release_deployment import route_of, state_of
from serving.control.releases import Release, Request
from serving.control.rollout.from_spec import first_plan_of, plan_of
from serving.control.rollout.lock import Claim
from serving.control.rollout.plan import Phase
from serving.control.specs import dag_id_of, wanted
from serving.control.wiring import Services, now
from serving.types import Route
from serving.web.access import Person
from serving.web.ports import Dags, Host, OpenRun, StartedRun, run_id_of
from serving.web.problems import Conflict, NotFound
from serving.web.schemas import ApprovalView, AttemptView, FreezeView, Preview, QueueView, StepView


@dataclass(frozen=True, slots=True)
class ResolvedVersion:
    """A version whose number is known, by the spec that would be followed. `asked`: as it was asked for."""

    spec: ReleaseSpec
    ref: ModelRef
    asked: str


@dataclass(frozen=True, slots=True)
class PreviewedVersion:
    """What a preview showed, as far as the person says: the version, and the digest of the spec."""

    version: int | None = None
    digest: str | None = None

    def refuse_other(self, wanted: ResolvedVersion) -> None:
        """Raises `Conflict` when something else would start by now."""
        name, number = wanted.ref.name, wanted.ref.version
        if self.version not in (None, number):
            raise Conflict(
                f"{wanted.asked} of {name} is version {number} by now, not version {self.version} as "
                "previewed",
                remedy=_PREVIEW,
            )
        if self.digest not in (None, wanted.spec.digest):
            raise Conflict(f"the spec of {name} is another by now than the one previewed", remedy=_PREVIEW)


_PREVIEW = "preview it again, then decide"


def spec_of(folder: Path, model: str, sees: Callable[[str], bool]) -> ReleaseSpec:
    """The model's spec in this folder. Raises `NotFound` listing those that there are and one `sees`."""
    loaded = wanted(folder, dag_id_of(model))
    for spec in loaded.specs:
        if spec.model == model:
            return spec
    for problem in loaded.problems:
        if problem.path.stem == model:
            complaint = problem.complaints[0]
            raise Conflict(f"the spec of {model} is refused: {complaint}", remedy=f"fix {problem.path.name}")
    known = ", ".join([spec.model for spec in load_all(folder).specs if sees(spec.model)][:20])
    raise NotFound(
        f"no model {model} is released by Slipway", remedy=f"models with a spec: {known or 'none'}"
    )


def resolve(
    services: Services, host: Host, person: Person, model: str, version: str | None
) -> ResolvedVersion:
    """Raises `NotFound` without a spec, `UnknownVersion` without a version, `Retryable` without MLflow."""
    spec = spec_of(host.specs(), model, person.sees)
    asked = version or spec.source.alias
    return ResolvedVersion(spec, services.registry.resolve(model, asked), asked)


def preview(services: Services, dags: Dags, wanted: ResolvedVersion) -> Preview:
    """Raises `Retryable` while MLflow is down."""
    spec, ref = wanted.spec, wanted.ref
    route = route_of(services, ref.name)
    serving = _serving(route)
    plan = plan_of(spec.rollout)
    plan = plan if route and route.stable else first_plan_of(plan)
    shown = Preview(
        model=ref.name,
        version=ref.version,
        dag_id=dag_id_of(ref.name),
        serves_now=serving,
        serves_already=serving == ref.version,
        strategy=plan.strategy,
        steps=[StepView(weight=s.split.candidate, hold_seconds=s.hold_seconds) for s in plan.steps],
        watch_seconds=plan.watch_seconds,
        precisions=list(spec.precisions),
        targets=list(spec.targets),
        approval=_approval(services, wanted),
        queue=_queue(services, ref.name),
        freezes=[
            FreezeView.of(one)
            for one in freeze_enforcement.freezes_of(services).in_force(spec.model, spec.freezes, at=now())
        ],
        tried=list(_attempts(services, ref)),
        warnings=[],
        digest=spec.digest,
    )
    return shown.model_copy(update={"warnings": list(_warnings(dags, ref, shown))})


def start(
    services: Services,
    dags: Dags,
    wanted: ResolvedVersion,
    person: Person,
    reason: str,
    *,
    dry_run: bool,
    key: str | None,
    seen: PreviewedVersion,
) -> tuple[Release | None, StartedRun]:
    """Start the release's DAG run. Raises `Conflict` while the same version is on its way, and when it is
    another than the person has `seen`.

    The release exists from then on, so that it can be aborted before its first task runs. With a `key` that
    this person used before, the run of then is returned and nothing is started.
    """
    at, ref, dag_id = now(), wanted.ref, dag_id_of(wanted.ref.name)
    run_id = run_id_of(key, person.name, at)
    request = Request(dag_id, run_id, at, str(ref.version), reason, person.name, dry_run)
    opened: list[Release] = []
    with exclusively(services, ref.name):
        if key is None or dags.state_of(dag_id, run_id) is None:
            trail_of(services).require_room()
            seen.refuse_other(wanted)
            _refuse_second(services, dags, ref)

        def open_it() -> None:
            release = services.releases.open(
                request, wanted.spec, lambda _: _admitted(services, wanted, request)
            )
            opened.append(release)
            detail = {"via": "api", "run_id": run_id}
            entry = AuditEntry(at, person.name, "release", ref.name, ref.version, release.id, reason, detail)
            try:
                trail_of(services).append(entry)
            except (OSError, SlipwayError):
                cooldowns.discard_unrecorded(services, opened.pop())
                raise

        said = {"version": str(ref.version), "reason": reason, "dry_run": dry_run}
        started = dags.start(dag_id, run_id, said, by=person.name, at=at, before=open_it)
    return (opened or _of_run(services, ref.name, started.run_id) or [None])[0], started


def start_blocker(dags: Dags, dag_id: str) -> Blocker | None:
    """What keeps the run of a release that was just asked for from beginning by itself."""
    if not dags.is_paused(dag_id):
        return None
    words = f"{paused_dags.describe(dag_id)}: the release begins when it is unpaused"
    return Blocker(BlockerKind.DAG_PAUSED, words, paused_dags.remedy_for(dag_id))


def _admitted(services: Services, wanted: ResolvedVersion, request: Request) -> int:
    """As `TakeTurn` asks; a person's request is always admitted, and ends what kept the model still."""
    cooldowns.admit(services, wanted.spec, wanted.ref, request, at=request.at)
    return wanted.ref.version


def _refuse_second(services: Services, dags: Dags, ref: ModelRef) -> None:
    by_run = {release.request.run_id: release for release in services.releases.of_model(ref.name)}
    for run in dags.under_way(dag_id_of(ref.name)):
        release = by_run.get(run.run_id)
        version = release.version if release else _version_asked(run)
        if version != ref.version or (release and _is_watched(services, release)):
            continue
        who = release.request.by if release else run.by or "somebody"
        name = release.id if release else run.run_id
        raise Conflict(
            f"{who} asked for {ref} at {run.at:%Y-%m-%d %H:%M:%S} UTC: {name} is on its way",
            remedy="watch that one, or abort it first",
        )


def _version_asked(run: OpenRun) -> int | None:
    said = str(run.said.get("version", ""))
    return int(said) if said.isdecimal() else None


def _is_watched(services: Services, release: Release) -> bool:
    state = state_of(services, release)
    return state is not None and state.phase is not Phase.PROGRESSING


def _of_run(services: Services, model: str, run_id: str) -> list[Release | None]:
    return [release for release in services.releases.of_model(model) if release.request.run_id == run_id]


def _serving(route: Route | None) -> int | None:
    if route is None:
        return None
    arm = route.candidate if route.split.candidate == 100 else route.stable
    return arm.version if arm else None


def _approval(services: Services, wanted: ResolvedVersion) -> ApprovalView | None:
    approval = wanted.spec.approval
    if approval is None:
        return None
    authors = services.registry.authors(wanted.ref)
    return ApprovalView(
        required=approval.required,
        approvers=[who for who in approval.approvers if who not in authors],
        author=", ".join(authors),
        timeout_seconds=approval.timeout_seconds,
    )


def _queue(services: Services, model: str) -> QueueView:
    lock = services.lock.read(model)
    holder, waiting = _id(lock.holder), _id(lock.waiting)
    return QueueView(position=int(holder is not None), under_way=holder, replaces=waiting)


def _id(claim: Claim | None) -> str | None:
    return claim.release_id if claim else None


def _attempts(services: Services, ref: ModelRef) -> Iterator[AttemptView]:
    """The newest first, five at most."""
    found = [release for release in services.releases.of_model(ref.name) if release.version == ref.version]
    for release in reversed(found[-5:]):
        state = state_of(services, release)
        yield AttemptView(
            release_id=release.id,
            at=release.request.at,
            by=release.request.by,
            outcome=state.phase.value if state else "before traffic",
            reason=state.reason if state else release.request.reason,
        )


def _warnings(dags: Dags, ref: ModelRef, shown: Preview) -> Iterator[str]:
    if shown.serves_already:
        yield f"version {ref.version} serves already"
    for before in shown.tried[:1]:
        if before.outcome == Phase.ROLLED_BACK:
            yield f"version {ref.version} was rolled back before: {before.reason}"
    if shown.queue.under_way:
        yield f"it waits until {shown.queue.under_way} is over"
    if shown.queue.replaces:
        yield f"{shown.queue.replaces}, which waits, will not run any more"
    yield from (f"nothing rolls out now, {freeze.words}" for freeze in shown.freezes)
    if still := start_blocker(dags, shown.dag_id):
        yield f"{still.words}. To go on: {still.way_out}"
