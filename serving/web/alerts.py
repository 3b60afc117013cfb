"""Answers Alertmanager's deliveries: decides on each incident, acts, and then says what was done."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from model_store.errors import Retryable
from serving import composition
from serving.control import alerts, cooldowns, notifications
from serving.control.alerts import AlertDecision, AlertReply
from serving.control.rollbacks import ALERT_RUN, DAG_ID
from serving.monitoring.incidents import Incident, incidents
from serving.web.ports import Dags
from serving.web.problems import Conflict

if TYPE_CHECKING:
    from model_store.release_spec import ReleaseSpec
    from serving.control.wiring import Services

log = logging.getLogger(__name__)
BY = "alertmanager"
LONGEST_REASON = 500


def answer(dags: Dags, body: bytes, at: datetime) -> list[str]:
    """What was done about each alert that asks for a rollback. Raises `RefusedAlert`.

    When this returns, the rollbacks are asked for and kept: a delivery that is not answered comes again.
    """
    told = incidents(body, models=dags.released_models())
    for words in told.left_out:
        log.warning("left out: %s", words)
    return [_answer(dags, incident, at) for incident in told.incidents] + [
        f"left out: {w}" for w in told.left_out
    ]


def _answer(dags: Dags, incident: Incident, at: datetime) -> str:
    services = composition.wire()
    # Two alerts of one failure may come at the same time, and must not go back two versions.
    with _one_at_a_time(services, incident.model):
        spec = services.releases.spec_of(incident.model)
        cooldown = cooldowns.cooldown_of(spec) if spec else cooldowns.DEFAULT_COOLDOWN
        decision = alerts.decide(services, incident, cooldown=cooldown, at=at)
        words = f"{incident.model}: {incident.alert}: {decision.reply.value}: {decision.words}"
        log.info("%s (incident %s)", words, incident.key)
        _act(services, dags, incident, decision, spec, at)
    return words


def _act(
    services: Services,
    dags: Dags,
    incident: Incident,
    decision: AlertDecision,
    spec: ReleaseSpec | None,
    at: datetime,
) -> None:
    match decision.reply:
        case AlertReply.ROLL_BACK:
            start_rollback(dags, incident, at)
            cooldowns.note_rollback_requested(services, incident.model, at=at)
        case AlertReply.HOLD:
            cooldowns.hold(services, incident.model, decision.words, at=at)
            notifications.notify_of_alert(services, spec, incident, decision.words, occasion="held", at=at)
        case AlertReply.TELL:
            notifications.notify_of_alert(services, spec, incident, decision.words, occasion="alert", at=at)
        case AlertReply.NOTHING:
            pass


def start_rollback(dags: Dags, incident: Incident, at: datetime) -> bool:
    """A run of `model_rollback` named by the incident. False: there is one already."""
    reason = f"{incident.alert}: {incident.summary}".strip() or "an alert"
    said = {"model": incident.model, "reason": reason[:LONGEST_REASON], "incident": incident.key}
    try:
        started = dags.start(DAG_ID, ALERT_RUN + incident.key, said, by=BY, at=at, before=lambda: None)
    except Conflict as not_yet:
        # A delivery that is refused does not come again.
        raise Retryable(not_yet.problem, remedy=not_yet.remedy) from not_yet
    return not started.again


@contextmanager
def _one_at_a_time(services: Services, model: str) -> Iterator[None]:
    path = services.home.run / "alerts" / model
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
