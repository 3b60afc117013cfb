"""Requests for approval that show what is asked now, not what a task asked before it was cleared.

Airflow keeps one request for each task. When a cleared (or retried) task asks again it gets the old request
back, without its answer, but with the old subject, evidence and people. This stands before Airflow's API for
tasks: once it has taken a request of a release, what the task sent is written over what was kept.
"""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)
_ASKING = re.compile(r"/execution/hitlDetails/([0-9a-fA-F-]{36})/?$")
_CREATED = 201


class RenewApprovalRequests:
    """A middleware of Airflow's root app. Whatever is no task that asks people passes untouched."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asking = scope["type"] == "http" and scope["method"] == "POST" and _ASKING.search(scope["path"])
        if not asking:
            await self.app(scope, receive, send)
            return
        from starlette.concurrency import run_in_threadpool

        sent: list[bytes] = []

        async def listen() -> Message:
            message = await receive()
            sent.append(message.get("body", b""))
            return message

        async def tell(message: Message) -> None:
            # Only Airflow knows whether it was this task that asked: what it refused changes nothing.
            if message["type"] == "http.response.start" and message["status"] == _CREATED:
                await run_in_threadpool(_renew_or_say, UUID(asking.group(1)), b"".join(sent))
            await send(message)

        await self.app(scope, listen, tell)


def _renew_or_say(task_instance: UUID, content: bytes) -> None:
    """An answer to what is shown wrongly does not count (`approvals.AskApproval`): so the task may go on."""
    try:
        renew(task_instance, json.loads(content))
    except Exception:
        log.exception("the request of task instance %s may show what was asked before", task_instance)


def renew(task_instance: UUID, asked: dict[str, Any]) -> None:
    """Let the kept request of a release's task show what was asked now. May be repeated."""
    from airflow.models.hitl import HITLDetail
    from airflow.utils.session import create_session

    from serving.control.specs import PREFIX
    from serving.control.wiring import now

    with create_session(scoped=False) as session:
        kept = session.get(HITLDetail, task_instance)
        if kept is None or not kept.task_instance.dag_id.startswith(PREFIX):
            return
        names = {"subject": "subject", "body": "body", "params": "params", "assignees": "assigned_users"}
        changed = {name: asked[key] for name, key in names.items() if getattr(kept, name) != asked[key]}
        for name, value in changed.items():
            setattr(kept, name, value)
        if changed:
            kept.created_at = now()
