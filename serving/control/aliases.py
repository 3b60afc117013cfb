"""What the alias of a model's spec comes to: a release, or nothing although somebody may wait for one.

Pages ask MLflow nothing, so why the version that an alias names is not released is written down by whoever
looks at the registry, and ended as soon as it is not so any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from model_store.types import ModelRef
from serving.control import cooldowns, rollbacks
from serving.control.finalization import REASON, STATUS, VersionStatus
from serving.control.notes import NoteKind
from serving.control.queries import outcomes
from serving.control.release_deployment import route_of, state_of
from serving.control.releases import Release
from serving.control.rollout.plan import Phase
from serving.control.wiring import Services, now
from serving.ledger.rows import NoteRow


@dataclass(frozen=True, slots=True)
class AliasNote:
    """Why nothing follows from where the alias points.

    `told_by`: the event, or the reconciler, that found it; `at`: when it did first.
    """

    model: str
    alias: str
    version: int
    words: str
    way_out: str
    told_by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class AliasDecision:
    """What the registry says of a model. `ref`: the version that should be on its way to users and is not;
    `note`: why the version that the alias names is not, although it does not serve."""

    ref: ModelRef | None = None
    note: AliasNote | None = None


@dataclass(frozen=True, slots=True)
class EndedRelease:
    """How a release of a version ended, in one of `Status`."""

    status: str
    reason: str
    at: datetime


def examine(services: Services, model: str, alias: str, *, told_by: str, at: datetime) -> AliasDecision:
    """Look at the registry, and write down what comes of it.

    Raises `Retryable` while MLflow does not answer, and `Permanent` when it knows no such model.
    """
    found = _examine(services, model, alias, told_by=told_by, at=at)
    _save(services, model, found.note)
    return found


def superseded_by(services: Services, release: Release) -> str:
    """Where the alias points by now, in words, if the release only is because it named its version.

    Empty if it names it still, and for what a person asked for, which stands wherever the alias points.
    Raises `Retryable` while MLflow does not answer.
    """
    if not release.request.cause.is_automatic:
        return ""
    alias = release.spec.source.alias
    number = services.registry.aliases(release.model).get(alias)
    if number == release.version:
        return ""
    where = f"moved to version {number}" if number is not None else "was taken away"
    return f"the alias {alias} {where} while version {release.version} was being built"


def read_note(note: NoteRow) -> AliasNote:
    said = {name: note.document[name] for name in ("alias", "version", "words", "way_out", "told_by")}
    return AliasNote(model=note.model, at=note.at, **said)


def _examine(services: Services, model: str, alias: str, *, told_by: str, at: datetime) -> AliasDecision:
    number = services.registry.aliases(model).get(alias)
    if number is None or _serves(services, ref := ModelRef(model, number)):
        return AliasDecision()
    said = AliasNote(model, alias, number, "", "", told_by, at)
    if held := cooldowns.hold_on(services, model):
        return AliasDecision(note=_of_hold(said, held))
    if services.attempts.of(ref) is None and not cooldowns.refusal(services, ref):
        return AliasDecision(ref)
    return AliasDecision(note=None if _is_on_its_way(services, ref) else _of_attempt(services, said, ref))


def _serves(services: Services, ref: ModelRef) -> bool:
    """Whether it has traffic: a candidate that was taken back stays in the route until it is settled."""
    if (route := route_of(services, ref.name)) is None:
        return False
    arms = ((route.stable, route.split.stable), (route.candidate, route.split.candidate))
    return any(arm and weight > 0 and arm.version == ref.version for arm, weight in arms)


def _is_on_its_way(services: Services, ref: ModelRef) -> bool:
    """Whether a release of the version has the turn or the place in front of it, or gets traffic."""
    lock = services.lock.read(ref.name)
    in_line = {
        claim.release_id.rpartition("-v")[2].partition("-")[0]
        for claim in (lock.holder, lock.waiting)
        if claim
    }
    active = (s for s in services.journal.releases(ref.name) if s.version == ref.version)
    return str(ref.version) in in_line or any(not state.phase.is_final for state in active)


def _of_hold(said: AliasNote, held: cooldowns.ModelHold) -> AliasNote:
    words = f"nothing of {said.model} is released by itself since {_time(held.since)}: {held.why}"
    return replace(said, words=words, way_out=f"{_release(said)}, or roll back; either ends the hold")


def _of_attempt(services: Services, said: AliasNote, ref: ModelRef) -> AliasNote | None:
    """None while nothing is known of how the try ended: it has not, or its run says so where it stands."""
    ended = max(_endings(services, ref), key=lambda one: one.at, default=None)
    if ended is None:
        return _of_tags(services, said, ref)
    words = (
        f"version {ref.version} was {ended.status.replace('_', ' ')} on {_time(ended.at)} ({ended.reason})"
    )
    return _not_again(said, words, ended.status)


def _of_tags(services: Services, said: AliasNote, ref: ModelRef) -> AliasNote | None:
    """Of a version whose files are gone, or that another installation tried."""
    tags = services.registry.describe(ref).tags
    status = tags.get(STATUS, "")
    if status not in (VersionStatus.PROMOTED, VersionStatus.BLOCKED, VersionStatus.ROLLED_BACK):
        return None
    reason = tags.get(REASON) or "nobody wrote down why"
    return _not_again(said, f"version {ref.version} was {status.replace('_', ' ')} ({reason})", status)


def _not_again(said: AliasNote, words: str, status: str) -> AliasNote:
    full = f"the alias {said.alias} names version {said.version}, and starts nothing: {words}"
    back = f"`./slipway rollback {said.model} {said.version} --reason ...` goes back to it; " * (
        status == VersionStatus.PROMOTED
    )
    return replace(said, words=full, way_out=f"{back}{_release(said)} all the same")


def _release(said: AliasNote) -> str:
    return f"`./slipway release {said.model} {said.version} --reason ...` releases it"


def _endings(services: Services, ref: ModelRef) -> Iterator[EndedRelease]:
    for release in services.releases.of_model(ref.name):
        if release.version == ref.version and not release.request.dry_run:
            yield from _ending(services, release)
    for back in rollbacks.all_of(services, ref.name):
        if back.switched_at and back.rollback.leaves == ref.version:
            yield EndedRelease(
                VersionStatus.ROLLED_BACK, rollbacks.describe_reason(back.rollback.request), back.switched_at
            )


def _ending(services: Services, release: Release) -> Iterator[EndedRelease]:
    state = state_of(services, release)
    if state and state.phase.is_final:
        status = VersionStatus.PROMOTED if state.phase is Phase.DONE else VersionStatus.ROLLED_BACK
        yield EndedRelease(status, state.reason, state.step_started_at)
    outcome = None if state else outcomes.of(services.rows, release.id)
    if outcome and outcome.status == VersionStatus.BLOCKED:
        yield EndedRelease(outcome.status, outcome.reason, outcome.at)


def _save(services: Services, model: str, note: AliasNote | None) -> None:
    """What is written already keeps its time."""
    found = services.notes.find(model, NoteKind.ALIAS)
    known = read_note(found) if found else None
    if note is None:
        services.notes.end(model, NoteKind.ALIAS, at=now())
    elif known is None or replace(note, at=known.at, told_by=known.told_by) != known:
        said = {name: value for name, value in asdict(note).items() if name not in ("model", "at")}
        services.notes.write(model, NoteKind.ALIAS, said, at=note.at)


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
