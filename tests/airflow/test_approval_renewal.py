"""A task that asks again shows people what it asks now."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.airflow.desk import answer_of, clear_request, waiting_for_approval
from tests.airflow.world import World

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]

ASKED = {
    "subject": "May it, as bundle ccc?",
    "body": "the evidence of ccc",
    "params": {"bundle": {"value": "ccc"}},
    "assigned_users": [{"id": "linus", "name": "linus"}],
    "options": ["Approve", "Reject"],
}


class TaskApi:
    """Airflow's API for tasks as far as it is asked here: it reads the request, and says this."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.read = b""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["more_body"]:
            self.read += message["body"]
        self.read += message["body"]
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


async def ask(api: TaskApi, path: str, asked: dict[str, Any], method: str = "POST") -> list[int]:
    """In two pieces, as a long body comes. Returns the statuses that were answered."""
    from slipway_airflow.approval_renewal import RenewApprovalRequests

    content = json.dumps({"ti_id": "x", **asked}).encode()
    parts = [
        {"type": "http.request", "body": content[:20], "more_body": True},
        {"type": "http.request", "body": content[20:], "more_body": False},
    ]
    told: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        told.append(message)

    await RenewApprovalRequests(api)({"type": "http", "method": method, "path": path}, receive, send)
    assert api.read == content
    return [message["status"] for message in told if "status" in message]


async def test_a_cleared_task_that_asks_again_shows_the_new_evidence(world: World, in_database: None) -> None:
    release = waiting_for_approval(world)
    before = answer_of(release)
    clear_request(release)
    kept = answer_of(release)
    assert kept.ti_id != before.ti_id
    assert kept.subject == "May it?", "Airflow keeps what was asked before"
    assert await ask(TaskApi(201), f"/execution/hitlDetails/{kept.ti_id}", ASKED) == [201]
    shown = answer_of(release)
    assert (shown.subject, shown.body) == (ASKED["subject"], ASKED["body"])
    assert (shown.params, shown.assignees) == (ASKED["params"], ASKED["assigned_users"])
    assert shown.created_at > before.created_at


@pytest.mark.parametrize(
    ("status", "method"), [(401, "POST"), (403, "POST"), (404, "POST"), (201, "PATCH"), (201, "GET")]
)
async def test_what_airflow_refused_or_is_no_request_changes_nothing(
    world: World, in_database: None, status: int, method: str
) -> None:
    release = waiting_for_approval(world)
    path = f"/execution/hitlDetails/{answer_of(release).ti_id}"
    assert await ask(TaskApi(status), path, ASKED, method) == [status]
    assert answer_of(release).subject == "May it?"


async def test_a_request_that_is_gone_or_unreadable_stops_no_task(in_database: None) -> None:
    for asked in (ASKED, {"subject": 7}):
        assert await ask(TaskApi(201), f"/execution/hitlDetails/{uuid4()}", asked) == [201]


async def test_the_requests_of_other_dags_are_left_alone(
    world: World, in_database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.control import specs

    release = waiting_for_approval(world)
    monkeypatch.setattr(specs, "PREFIX", "something_else_")
    path = f"/execution/hitlDetails/{answer_of(release).ti_id}"
    assert await ask(TaskApi(201), path, ASKED) == [201]
    assert answer_of(release).subject == "May it?"


def test_airflows_root_app_has_it() -> None:
    from airflow.plugins_manager import get_fastapi_plugins

    _, middlewares = get_fastapi_plugins()
    assert [one["name"] for one in middlewares if "Slipway" in one["name"]]
