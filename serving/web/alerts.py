"""Answers Alertmanager's deliveries: decides on each incident, acts, and then says what was done."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from slipway_airflow import notifications

from serving import composition
from serving.control import alerts, cooldowns, specs
from serving.control.alerts import AlertDecision, AlertReply
from serving.control.rollbacks import ALERT_RUN
from serving.monitoring.incidents import Incident, incidents

if TYPE_CHECKING:
    from model_store.release_spec import ReleaseSpec
    from serving.control.wiring import Services

log = logging.getLogger(__name__)
BY = "alertmanager"
ROLLBACK = "model_rollback"
LONGEST_REASON = 500


def answer(body: bytes, at: datetime) -> list[str]:
    """What was done about each alert that asks for a rollback. Raises `RefusedAlert`.

    When this returns, the rollbacks are in Airflow's database: a delivery that is not answered comes again.
    """
    told = incidents(body, models=known_models())
    for words in told.left_out:
        log.warning("left out: %s", words)
    return [_answer(incident, at) for incident in told.incidents] + [f"left out: {w}" for w in told.left_out]


def known_models() -> set[str]:
    """Those with a release DAG."""
    from airflow.models.dag import DagModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        names = session.scalars(select(DagModel.dag_id).where(DagModel.dag_id.startswith(specs.PREFIX)))
        return {name.removeprefix(specs.PREFIX) for name in names}


def _answer(incident: Incident, at: datetime) -> str:
    services = composition.wire()
    # Two alerts of one failure may come at the same time, and must not go back two versions.
    with _one_at_a_time(services, incident.model):
        spec = services.releases.spec_of(incident.model)
        cooldown = cooldowns.cooldown_of(spec) if spec else cooldowns.DEFAULT_COOLDOWN
        decision = alerts.decide(services, incident, cooldown=cooldown, at=at)
        words = f"{incident.model}: {incident.alert}: {decision.reply.value}: {decision.words}"
        log.info("%s (incident %s)", words, incident.key)
        _act(services, incident, decision, spec, at)
    return words


def _act(
    services: Services, incident: Incident, decision: AlertDecision, spec: ReleaseSpec | None, at: datetime
) -> None:
    match decision.reply:
        case AlertReply.ROLL_BACK:
            start_rollback(incident, at)
            cooldowns.note_rollback_requested(services, incident.model, at=at)
        case AlertReply.HOLD:
            cooldowns.hold(services, incident.model, decision.words, at=at)
            notifications.notify_of_alert(services, spec, incident, decision.words, occasion="held", at=at)
        case AlertReply.TELL:
            notifications.notify_of_alert(services, spec, incident, decision.words, occasion="alert", at=at)
        case AlertReply.NOTHING:
            pass


def start_rollback(incident: Incident, at: datetime) -> bool:
    """A run of `model_rollback` named by the incident. False: there is one already."""
    from airflow.api.common.trigger_dag import trigger_dag
    from airflow.exceptions import DagRunAlreadyExists
    from airflow.utils.types import DagRunTriggeredByType

    reason = f"{incident.alert}: {incident.summary}".strip() or "an alert"
    try:
        trigger_dag(
            dag_id=ROLLBACK,
            run_id=ALERT_RUN + incident.key,
            run_after=at,
            conf={"model": incident.model, "reason": reason[:LONGEST_REASON], "incident": incident.key},
            triggered_by=DagRunTriggeredByType.REST_API,
            triggering_user_name=BY,
        )
    except DagRunAlreadyExists:
        return False
    return True


@contextmanager
def _one_at_a_time(services: Services, model: str) -> Iterator[None]:
    path = services.home.run / "alerts" / model
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
