"""Freezes over REST: those in force, a new one, the end of one."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import Field

from serving import composition
from serving.control import freeze_enforcement, reasons
from serving.control.audit import AuditEntry
from serving.control.audit_entries import trail_of
from serving.control.freezes import Freezes, Frozen
from serving.control.wiring import Services, now
from serving.web.access import Right, SignedIn
from serving.web.fields import API, MODEL, Body, ModelName, Reason, ReasonBody
from serving.web.ports import InHost
from serving.web.problems import problems
from serving.web.release_requests import spec_of
from serving.web.schemas import FreezeView

router = APIRouter(prefix=f"{API}/freezes", tags=["freezes"])

FreezeId = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$", description="The freeze's id.")]


class NewFreeze(Body):
    """From now on nothing rolls out."""

    model: ModelName | None = Field(None, description="Left out: every model.")
    hours: Annotated[float, Field(gt=0, le=8784)] | None = Field(
        None, description="For how long. Left out: until somebody lifts it."
    )
    reason: Reason


@router.get("", responses=problems(404, 422), summary="What is frozen now?")
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


@router.post("", status_code=201, responses=problems(404, 422), summary="Freeze")
def freeze(body: NewFreeze, person: SignedIn, host: InHost) -> FreezeView:
    """Nothing rolls out from now on: releases wait, rollouts keep their split. Rollbacks are never held."""
    person.needs(Right.ADMIN, body.model)
    if body.model:
        spec_of(host.specs(), body.model, person.sees)
    services, at = composition.wire(), now()
    until = at + timedelta(hours=body.hours) if body.hours is not None else None
    detail = {"until": until.isoformat() if until else "until lifted"}
    trail_of(services).append(_entry(person.name, "freeze", body.model, body.reason, detail))
    made = _freezes(services).add(body.model, by=person.name, reason=body.reason, until=until, at=at)
    return FreezeView.of(made)


@router.post("/{freeze_id}/lift", responses=problems(404, 409, 422), summary="Lift a freeze, saying why")
def lift(freeze_id: FreezeId, body: ReasonBody, person: SignedIn) -> FreezeView:
    """End a freeze that a person asked for. Those of the calendar and of specs are ended in their files."""
    person.needs(Right.ADMIN)
    services = composition.wire()
    trail_of(services).require_room()
    lifted = _freezes(services).lift(freeze_id, by=person.name, at=now())
    # After the act, because only then is it known who of two was first.
    entry = _entry(person.name, "lift freeze", lifted.model, body.reason, _of(lifted))
    trail_of(services).append_or_queue(entry)
    return FreezeView.of(lifted)


@router.delete("/{freeze_id}", responses=problems(404, 409, 422), summary="Lift a freeze")
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


def _of(frozen: Frozen) -> dict[str, str]:
    return {"freeze": frozen.id, "of": frozen.by, "said": frozen.reason}
