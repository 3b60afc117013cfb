"""What Alertmanager tells Airflow, read with care: anybody may find the address. Pure.

The endpoint first compares the token (`is_authentic`), then asks for `incidents`, then starts
`model_rollback` once per `Incident.key`, however often that is delivered.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from model_store.errors import Permanent
from model_store.release_spec import MODEL_NAME

MOST_BYTES = 1_000_000

Text = Annotated[str, Field(max_length=2000)]
Labels = Annotated[dict[Annotated[str, Field(max_length=200)], Text], Field(max_length=64)]


class RefusedAlert(Permanent):
    """The delivery is not what Alertmanager sends."""


class Alert(BaseModel):
    """One alert of a delivery; fields we do not use are ignored, as newer versions add some."""

    status: Literal["firing", "resolved"]
    labels: Labels
    annotations: Labels = {}
    startsAt: AwareDatetime  # noqa: N815 - Alertmanager's name
    fingerprint: Annotated[str, Field(max_length=64)] = ""


class AlertDelivery(BaseModel):
    """https://prometheus.io/docs/alerting/latest/configuration/#webhook_config"""

    version: Literal["4"]
    alerts: Annotated[list[Alert], Field(max_length=1000)]


@dataclass(frozen=True, slots=True)
class Incident:
    """An alert that asks to roll `model` back. `key` is the same at every delivery of the same incident.

    `version`: of which it speaks, None if it speaks of whatever serves.
    """

    key: str
    model: str
    alert: str
    summary: str
    since: datetime
    version: int | None = None


@dataclass(frozen=True, slots=True)
class ReportedIncidents:
    """What to do, and what was left out and why (to be logged)."""

    incidents: tuple[Incident, ...]
    left_out: tuple[str, ...]


def alert_token(webhook_secret: str) -> str:
    """What Alertmanager shows Airflow. It cannot sign, so this is a key of its own, made from the secret."""
    return hmac.new(webhook_secret.encode(), b"slipway alerts", hashlib.sha256).hexdigest()


def is_authentic(header: str | None, webhook_secret: str) -> bool:
    """Whether the Authorization header carries this installation's token. Takes the same time either way."""
    expected = f"Bearer {alert_token(webhook_secret)}"
    return hmac.compare_digest((header or "").encode(), expected.encode())


def incidents(body: bytes, *, models: Collection[str]) -> ReportedIncidents:
    """The rollbacks a delivery asks for. `models` are those we know. Raises `RefusedAlert`."""
    if len(body) > MOST_BYTES:
        raise RefusedAlert(f"{len(body)} bytes of alerts", remedy=f"send at most {MOST_BYTES}")
    try:
        delivery = AlertDelivery.model_validate_json(body)
    except ValidationError as error:
        what = f"{error.error_count()} mistakes, the first: {error.errors(include_input=False)[0]['msg']}"
        raise RefusedAlert(
            f"no Alertmanager delivery: {what}", remedy="send its webhook format, version 4"
        ) from None
    asking = [alert for alert in delivery.alerts if _asks_for_rollback(alert)]
    reasons = [_why_not(alert, models) for alert in asking]
    wanted = {
        incident.key: incident
        for alert, reason in zip(asking, reasons, strict=True)
        if not reason and (incident := _incident(alert))
    }
    return ReportedIncidents(tuple(wanted.values()), tuple(reason for reason in reasons if reason))


def _asks_for_rollback(alert: Alert) -> bool:
    return alert.status == "firing" and alert.labels.get("action") == "rollback"


def _why_not(alert: Alert, models: Collection[str]) -> str:
    model = alert.labels.get("model", "")
    if not MODEL_NAME.fullmatch(model):
        return f"an alert names no model that could exist: {model[:100]!r}"
    return "" if model in models else f"an alert names an unknown model: {model!r}"


def _incident(alert: Alert) -> Incident:
    model, name = alert.labels["model"], alert.labels.get("alertname", "")
    version = alert.labels.get("version", "")
    identity = "\0".join((name, model, alert.startsAt.isoformat()))
    return Incident(
        key=hashlib.sha256(identity.encode()).hexdigest()[:24],
        model=model,
        alert=name,
        summary=alert.annotations.get("summary", name),
        since=alert.startsAt,
        version=int(version) if version.isascii() and version.isdecimal() else None,
    )
