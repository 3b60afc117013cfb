"""The launcher's port: four things that may be asked, each with the installation's token."""

from __future__ import annotations

import hmac
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import uvicorn
from docker.errors import DockerException
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from model_store.errors import Permanent, SlipwayError
from serving.platforms.docker import engine
from serving.platforms.docker.launcher import Launcher, refused
from serving.platforms.docker.records import Records
from serving.platforms.docker.wanted import Ref, Served, Wanted

PORT = 8490
_COMPOSE_PROJECT = "com.docker.compose.project"

Message = TypeVar("Message", bound=BaseModel)


def build(launcher: Launcher, token: str) -> Starlette:
    """The application. Only its health is told without the token."""

    def asked(kind: type[Message], act: Callable[[Message], None]) -> Callable[[Request], Response]:
        async def answer(request: Request) -> Response:
            if not _shows(request, token):
                return JSONResponse({"problem": "the token is another one"}, 401)
            try:
                message = kind.model_validate_json(await request.body())
            except ValidationError as error:
                return JSONResponse({"problem": str(error)}, 422)
            try:
                status, body = await run_in_threadpool(refused, lambda: act(message))
            except DockerException as error:
                return JSONResponse({"problem": f"Docker does not answer: {error}"}, 503)
            return JSONResponse(body, status)

        return answer  # type: ignore[return-value]

    async def listing(request: Request) -> Response:
        if not _shows(request, token):
            return JSONResponse({"problem": "the token is another one"}, 401)
        try:
            found = await run_in_threadpool(launcher.listing)
        except DockerException as error:
            return JSONResponse({"problem": f"Docker does not answer: {error}"}, 503)
        return Response(found.model_dump_json(), media_type="application/json")

    return Starlette(
        routes=[
            Route("/health", lambda request: PlainTextResponse("ok")),
            Route("/pods", listing),
            Route("/apply", asked(Wanted, launcher.apply), methods=["POST"]),
            Route("/retire", asked(Ref, launcher.retire), methods=["POST"]),
            Route(
                "/served",
                asked(Served, lambda served: launcher.note_served(served.ref, served.address)),
                methods=["POST"],
            ),
        ]
    )


def _shows(request: Request, token: str) -> bool:
    return hmac.compare_digest(request.headers.get("authorization", ""), f"Bearer {token}")


def is_alone(options: engine.Options) -> bool:
    """Whether everything else of the project is down: `docker compose down` ends the launcher last."""
    labelled = {"label": f"{_COMPOSE_PROJECT}={options.installation}", "status": "running"}
    running = engine.client().containers.list(filters=labelled)
    return not [each for each in running if each.labels.get("com.docker.compose.service") != "launcher"]


def token_of(path: Path) -> str:
    """Raises `Permanent` where there is none."""
    token = path.read_text().strip() if path.exists() else ""
    if not token:
        raise Permanent(f"{path} holds no token", remedy="start the service `secrets`, which makes it")
    return token


def main() -> None:
    """Until SIGTERM. Raises `Permanent` for what is missing in the environment."""
    options = engine.Options.read()
    token = token_of(Path(os.environ.get("SLIPWAY_LAUNCHER_TOKEN_FILE", "/run/secrets/launcher-token")))
    records = Records(Path(os.environ.get("SLIPWAY_LAUNCHER_RECORDS", "/var/lib/slipway-launcher")))
    launcher = Launcher(engine.Engine(engine.client(), options), records)
    for work in (launcher.run, launcher.follow_deaths):
        threading.Thread(target=work, daemon=True, name=work.__name__).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn ends by them, and then raises them again: what comes after it would not be reached.
        signal.signal(number, lambda *_: None)
    listen = os.environ.get("SLIPWAY_LISTEN") or "127.0.0.1"
    uvicorn.run(build(launcher, token), host=listen, port=PORT, access_log=False, log_level="warning")
    launcher.stop(with_pods=is_alone(options))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    try:
        main()
    except SlipwayError as problem:
        sys.exit(f"error: {problem}")
