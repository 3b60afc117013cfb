"""Deliveries that are forged, broken, crafted or repeated."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.monitoring.incidents import MOST_BYTES, RefusedAlert, alert_token, incidents, is_authentic

MODELS = {"fraud", "churn"}


def alert(**changes: Any) -> dict[str, Any]:
    labels = {"alertname": "ModelErrorRateHigh", "model": "fraud", "version": "3", "action": "rollback"}
    return {
        "status": "firing",
        "labels": {**labels, **changes.pop("labels", {})},
        "annotations": {"summary": "fraud v3 fails 2% of attempts"},
        "startsAt": "2026-11-21T20:15:00.123Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "ce3a7bb5e4ff0bde",
        **changes,
    }


def delivery(*alerts: dict[str, Any], **changes: Any) -> bytes:
    made = {
        "version": "4",
        "groupKey": "{}",
        "status": "firing",
        "receiver": "airflow",
        "alerts": list(alerts),
    }
    return json.dumps({**made, **changes}).encode()


def test_a_firing_alert_asks_once_however_often_it_is_delivered() -> None:
    first = incidents(delivery(alert()), models=MODELS)
    again = incidents(delivery(alert(), alert(fingerprint="other"), groupKey="x"), models=MODELS)
    assert [one.model for one in first.incidents] == ["fraud"]
    assert first.incidents == again.incidents
    assert first.incidents[0].summary == "fraud v3 fails 2% of attempts"


def test_the_same_alert_at_another_time_or_of_another_model_is_another_incident() -> None:
    told = incidents(
        delivery(alert(), alert(startsAt="2026-11-21T21:15:00Z"), alert(labels={"model": "churn"})),
        models=MODELS,
    )
    assert len({one.key for one in told.incidents}) == 3


def test_resolved_alerts_and_those_that_only_tell_ask_for_nothing() -> None:
    told = incidents(
        delivery(alert(status="resolved"), alert(labels={"action": ""}), alert(labels={"action": "restart"})),
        models=MODELS,
    )
    assert not told.incidents
    assert not told.left_out


@pytest.mark.parametrize(
    "model", ["unknown", "../fraud", "", "fraud\n", "fraud\0", "a" * 200, "=cmd()", "Fraud"]
)
def test_models_that_we_do_not_know_are_left_out_with_the_reason(model: str) -> None:
    told = incidents(delivery(alert(labels={"model": model}), alert()), models=MODELS)
    assert len(told.incidents) == len(told.left_out) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        delivery(alert(), version="3"),
        delivery(alert(startsAt="yesterday")),
        delivery(alert(startsAt="2026-11-21T20:15:00")),
        delivery(alert(status="perhaps")),
        delivery(alert(labels={"x": 7})),
        delivery(alert(labels={"x": "y" * 3000})),
        delivery(alert(labels={f"x{i}": "" for i in range(100)})),
        delivery(*[alert()] * 1001),
        delivery(alert(annotations={"summary": "x" * MOST_BYTES})),
    ],
)
def test_what_alertmanager_does_not_send_is_refused(body: bytes) -> None:
    with pytest.raises(RefusedAlert):
        incidents(body, models=MODELS)


@settings(max_examples=150, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists) | st.binary())
def test_no_body_whatever_does_anything_but_be_refused(body: object) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(RefusedAlert):
        incidents(raw, models=MODELS)


def test_only_the_token_of_this_installation_opens_the_door() -> None:
    assert is_authentic(f"Bearer {alert_token('secret')}", "secret")
    for header in (
        None,
        "",
        "Bearer ",
        "Bearer secret",
        alert_token("secret"),
        f"Bearer {alert_token('other')}",
        "é",
    ):
        assert not is_authentic(header, "secret")
