"""The two doors through which programs tell Slipway something: MLflow's registry, and Alertmanager.

Nobody signs in here: MLflow signs each delivery, Alertmanager shows a token. Who cannot is told nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime
from functools import partial

from fastapi import APIRouter, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from serving import composition
from serving.home import Home
from serving.inbound import deliveries
from serving.inbound.deliveries import Deliveries
from serving.inbound.pace import Pace
from serving.inbound.registry_events import read_event
from serving.inbound.secrets import secrets_of
from serving.monitoring import incidents
from serving.web.events import answer_alerts
from serving.web.ports import InHost
from serving.web.problems import problems

log = logging.getLogger(__name__)
router = APIRouter(tags=["events"])

# Training a hundred models at night is a burst; more than this in the long run is no registry of models.
MLFLOW_PACE = Pace(burst=5000, per_second=100)
ALERTS_PACE = Pace(burst=200, per_second=5)
# What is refused is logged, but nobody may fill the disk that way.
REFUSALS_LOGGED = Pace(burst=50, per_second=1)
BODY_SECONDS = 10.0


class WebhookAnswer(BaseModel):
    """What is done with a delivery."""

    answer: str = Field(
        description="accepted, repeated (it came before), or ignored (nothing follows from it)"
    )


class AlertAnswers(BaseModel):
    """What is done about the alerts of a delivery, one line each."""

    answers: list[str]


def now() -> datetime:
    return datetime.now(UTC)


@router.post(
    "/webhooks/mlflow",
    status_code=202,
    responses=problems(401, 408, 413, 422, 429, 503),
    summary="MLflow's registry",
)
async def mlflow(request: Request) -> WebhookAnswer:
    """A signed delivery of MLflow's registry. It is believed for five minutes, once, and only as a reason to
    look at the registry; a version that should be on its way is then released.
    """
    home, at = Home.locate(), now()
    try:
        stamp = deliveries.stamp_of(request.headers, now=at)
        body = await _body(request, deliveries.MOST_BYTES)
        deliveries.require_signed(request.headers, body, secrets_of(home).valid(now=at))
    except deliveries.Unsigned as problem:
        raise _refused(request, problem.problem) from None
    if not MLFLOW_PACE.allows(at=time.monotonic()):
        raise HTTPException(429, "too many deliveries", {"Retry-After": "5"})
    event = read_event(body)
    if event.is_ours:
        return WebhookAnswer(answer="ignored")
    taken = await run_in_threadpool(lambda: Deliveries(composition.wire().rows))
    # Where the controller is away this is 503 with Retry-After, and MLflow comes again.
    if not await run_in_threadpool(taken.take, stamp):
        return WebhookAnswer(answer="repeated")
    request.app.state.asset_events.ask(event.data.name, event.kind, partial(taken.note, stamp))
    return WebhookAnswer(answer="accepted")


@router.post("/alerts", responses=problems(401, 408, 413, 422, 429, 503), summary="Alertmanager")
async def alerts(request: Request, host: InHost) -> AlertAnswers:
    """Alerts of Alertmanager (webhook version 4) with this installation's token. One that asks for a rollback
    of a model with a release behind it gets one, once however often it is delivered.
    """
    home, at = Home.locate(), now()
    shown = request.headers.get("authorization")
    secrets = secrets_of(home).valid(now=at)
    if not any(incidents.is_authentic(shown, secret) for secret in secrets):
        raise _refused(request, "the token is missing or not this installation's")
    body = await _body(request, incidents.MOST_BYTES)
    if not ALERTS_PACE.allows(at=time.monotonic()):
        raise HTTPException(429, "too many deliveries", {"Retry-After": "30"})
    return AlertAnswers(answers=await run_in_threadpool(answer_alerts, host.dags, body, at))


async def _body(request: Request, most: int) -> bytes:
    """Raises 413 as soon as it is too long, and 408 when the sender takes too long."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise HTTPException(413, f"at most {most} bytes are read")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise HTTPException(413, f"at most {most} bytes are read")
    except TimeoutError:
        raise HTTPException(408, "the body took too long") from None
    return bytes(body)


def _refused(request: Request, why: str) -> HTTPException:
    """The log says why, the sender is only told that it is not known."""
    if REFUSALS_LOGGED.allows(at=time.monotonic()):
        where = request.client.host if request.client else "somewhere"
        log.warning("refused a delivery to %s from %s: %s", request.url.path, where, why)
    return HTTPException(401, "not signed by this installation, or not now")
