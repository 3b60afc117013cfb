"""What MLflow's deliveries say, also when somebody chose the names in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.inbound.registry_events import RefusedEvent, read_event


def body(entity: str, action: str, **data: Any) -> bytes:
    said = {"entity": entity, "action": action, "timestamp": "2026-11-21T20:00:00+00:00", "data": data}
    return json.dumps(said).encode()


def test_each_event_of_mlflow_is_read_as_mlflow_makes_it() -> None:
    from mlflow.entities.webhook import WebhookEvent
    from mlflow.webhooks.types import get_example_payload_for_event

    from serving.inbound.registry_events import EVENTS

    for entity, action in EVENTS:
        example = get_example_payload_for_event(WebhookEvent(entity, action))
        event = read_event(body(entity, action, **example))
        assert (event.kind, event.data.name) == (f"{entity}.{action}", "example_model")


@pytest.mark.parametrize(
    "crafted",
    [
        b"",
        b"[]",
        b"\xff",
        body("prompt", "created", name="fraud"),
        body("model_version", "deleted", name="fraud"),
        body("model_version", "created"),
        body("model_version", "created", name="../fraud", version="1"),
        body("model_version", "created", name="<script>alert(1)</script>", version="1"),
        body("model_version", "created", name="=cmd()", version="1"),
        body("model_version", "created", name="fraud\n", version="1"),
        body("model_version", "created", name="a" * 5000, version="1"),
        body("model_version", "created", name="fraud", version="one"),
        body("model_version_alias", "created", name="fraud", version="1" * 30, alias="candidate"),
        body("model_version", "created", name={"$ne": 1}, version="1"),
    ],
)
def test_what_was_not_asked_for_or_has_crafted_names_is_refused(crafted: bytes) -> None:
    with pytest.raises(RefusedEvent):
        read_event(crafted)


def test_what_slipway_did_itself_is_no_news() -> None:
    mine = body("model_version_tag", "set", name="fraud", version="1", key="slipway.status", value="promoted")
    champion = body("model_version_alias", "created", name="fraud", version="1", alias="champion")
    theirs = body("model_version_alias", "created", name="fraud", version="1", alias="candidate")
    assert [read_event(one).is_ours for one in (mine, champion, theirs)] == [True, True, False]


@settings(max_examples=150, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists) | st.binary())
def test_no_body_whatever_is_taken_for_an_event(said: object) -> None:
    raw = said if isinstance(said, bytes) else json.dumps(said).encode()
    with pytest.raises(RefusedEvent):
        read_event(raw)
