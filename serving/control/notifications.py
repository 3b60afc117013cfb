"""What people are told of releases, rollbacks and alerts: written down by the step itself, delivered later.

Each message has an id of what it tells, so it is told once however often the step runs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from serving.control.outbox import Message, Outbox

if TYPE_CHECKING:
    from model_store.release_spec import ReleaseSpec
    from serving.control.finalization import ReleaseEnd
    from serving.control.releases import Release
    from serving.control.rollbacks import RequestedRollback
    from serving.control.rollout.plan import RolloutState
    from serving.control.wiring import Services
    from serving.monitoring.incidents import Incident

log = logging.getLogger(__name__)

PAGE = "/slipway/releases/"
LONGEST_TEXT = 4000


def outbox_of(services: Services) -> Outbox:
    return Outbox(services.rows)


def notify_of_outcome(services: Services, release: Release, ending: ReleaseEnd, *, at: datetime) -> None:
    """A release was promoted, blocked, or rolled back. Told once, however often the step runs."""
    words = {"promoted": "is released", "blocked": "was not released", "rolled_back": "was rolled back"}
    said = words.get(ending.status.value)
    if said is None:
        return
    facts = {"asked for by": release.request.by, "release": release.id}
    _put(services, release, ending.status.value, f"{release.ref} {said}", ending.reason, facts, at=at)


def notify_of_approval(
    services: Services,
    release: Release,
    *,
    bundle: str,
    number: int,
    allowed: Sequence[str],
    text: str,
    at: datetime,
) -> None:
    """Somebody is asked whether the bundle may get traffic. Told once for each bundle."""
    title = f"{release.ref} waits for approval"
    facts = {"who may approve": ", ".join(allowed), "asked for by": release.request.by}
    _put(services, release, f"approval-{number}-{bundle}", title, text, facts, at=at, occasion="approval")


def notify_of_hold(services: Services, state: RolloutState, why: str, *, at: datetime) -> None:
    """A rollout does not go on by itself. Told once for each step."""
    release = services.releases.load(state.release_id)
    title = f"{release.ref} is held at {state.split.candidate:g} %"
    name = f"held-{state.step}"
    _put(services, release, name, title, why, {"release": release.id}, at=at, occasion="held")


def notify_of_rollback(
    services: Services, rollback: RequestedRollback, *, at: datetime, failed: str = ""
) -> None:
    """A person or an alert took a version back, or could not: `failed` says why. Goes to whom the spec of the
    model's last release names."""
    spec = services.releases.spec_of(rollback.model)
    if spec is None:
        return
    request, name = rollback.request, f"{rollback.model} v{rollback.leaves}"
    title = f"{name} was rolled back to v{rollback.returns}"
    if failed:
        title = f"{name} could not be rolled back to v{rollback.returns}"
    message = Message(
        id=rollback.id + ("-failed" if failed else ""),
        occasion="rolled_back",
        model=rollback.model,
        title=title,
        text="\n".join(filter(None, [failed, request.reason]))[:LONGEST_TEXT],
        at=at,
        url=services.home.airflow_url + "/slipway/",
        facts={"asked for by": request.by, **({"incident": request.incident} if request.incident else {})},
    )
    outbox_of(services).put(message, spec.notify)


def notify_of_alert(
    services: Services, spec: ReleaseSpec | None, incident: Incident, why: str, *, occasion: str, at: datetime
) -> None:
    """An alert that changes nothing by itself. Told once for each incident and occasion."""
    if spec is None:
        log.warning("nobody is named who could be told of %s: %s", incident.alert, why)
        return
    held = occasion == "held"
    message = Message(
        id=f"{incident.model}-alert-{incident.key}-{occasion}",
        occasion=occasion,
        model=incident.model,
        title=f"{incident.model}{' is held' if held else ''}: {incident.alert}",
        text=f"{incident.summary}\n{why}"[:LONGEST_TEXT],
        at=at,
        url=services.home.airflow_url + "/slipway/",
        facts={"since": incident.since.isoformat(timespec="seconds"), "incident": incident.key},
    )
    outbox_of(services).put(message, spec.notify)


def notify_of_lateness(services: Services, model: str, run_id: str, seconds: float, *, at: datetime) -> None:
    """A release is not over although its deadline is."""
    releases = [one for one in services.releases.of_model(model) if one.request.run_id == run_id]
    text = f"It was to be over {seconds:g} s after it was asked for. It goes on; nothing was stopped."
    if releases:
        release = releases[-1]
        facts = {"release": release.id, "asked for by": release.request.by}
        _put(services, release, "late", f"{release.ref} is late", text, facts, at=at)
    else:
        log.warning("%s of %s is late, and has not even begun: %s", run_id, model, text)


def _put(
    services: Services,
    release: Release,
    name: str,
    title: str,
    text: str,
    facts: dict[str, Any],
    *,
    at: datetime,
    occasion: str | None = None,
) -> None:
    message = Message(
        id=f"{release.id}-{name}",
        occasion=occasion or name,
        model=release.model,
        title=title,
        text=text[:LONGEST_TEXT],
        at=at,
        url=f"{services.home.airflow_url}{PAGE}{release.id}",
        facts=facts,
    )
    outbox_of(services).put(message, release.spec.notify)
