"""The launcher's port: four things that may be asked, each with the installation's token."""

from __future__ import annotations

import hmac
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
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
from serving.platforms.docker.launcher import Launcher
from serving.platforms.docker.records import DeploymentRecords
from serving.platforms.docker.wanted import PodsRequest, ReadyPod, Ref

PORT = 8490
# Which of the Compose project's services send requests to pods.
ROUTERS = "SLIPWAY_ROUTERS"
_COMPOSE_PROJECT = "com.docker.compose.project"

Message = TypeVar("Message", bound=BaseModel)
Endpoint = Callable[[Request], Awaitable[Response]]


def build(launcher: Launcher, token: str) -> Starlette:
    """The application. Only its health is told without the token."""

    async def answered(request: Request, act: Callable[[bytes], BaseModel | None]) -> Response:
        if not _shows(request, token):
            return JSONResponse({"problem": "the token is another one"}, 401)
        try:
            said = await run_in_threadpool(act, await request.body())
        except ValidationError as error:
            return JSONResponse({"problem": str(error)}, 422)
        except Permanent as error:
            return JSONResponse({"problem": error.problem, "remedy": error.remedy or ""}, 422)
        except DockerException as error:
            return JSONResponse({"problem": f"Docker does not answer: {error}"}, 503)
        return Response(said.model_dump_json() if said else "{}", media_type="application/json")

    def asked(kind: type[Message], act: Callable[[Message], None]) -> Endpoint:
        # Starlette runs what is no `async def` on a thread, and would take the promise for the answer.
        async def answer(request: Request) -> Response:
            return await answered(request, lambda body: act(kind.model_validate_json(body)))

        return answer

    async def listing(request: Request) -> Response:
        return await answered(request, lambda body: launcher.listing())

    return Starlette(
        routes=[
            Route("/health", lambda request: PlainTextResponse("ok")),
            Route("/pods", listing),
            Route("/apply", asked(PodsRequest, launcher.apply), methods=["POST"]),
            Route("/retire", asked(Ref, launcher.retire), methods=["POST"]),
            Route(
                "/served",
                asked(ReadyPod, lambda served: launcher.note_served(served.ref, served.address)),
                methods=["POST"],
            ),
        ]
    )


def _shows(request: Request, token: str) -> bool:
    return hmac.compare_digest(request.headers.get("authorization", ""), f"Bearer {token}")


def is_alone(options: engine.DockerOptions, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether nothing of the project runs any more that asks pods: `docker compose down` ends that first.

    What does, `SLIPWAY_ROUTERS` says, by its services' names; without, all but the launcher. What else is of
    the project is ended at the same time as the launcher, and may take longer.
    """
    labelled = {"label": f"{_COMPOSE_PROJECT}={options.installation}", "status": "running"}
    running = engine.client().containers.list(filters=labelled)
    services = {each.labels.get("com.docker.compose.service") for each in running} - {"launcher"}
    routers = environ.get(ROUTERS, "").split()
    return not (services & set(routers) if routers else services)


def token_of(path: Path) -> str:
    """Raises `Permanent` where there is none."""
    token = path.read_text().strip() if path.exists() else ""
    if not token:
        raise Permanent(f"{path} holds no token", remedy="start the service `secrets`, which makes it")
    return token


def main() -> None:
    """Until SIGTERM. Raises `Permanent` for what is missing in the environment."""
    options = engine.DockerOptions.read()
    token = token_of(Path(os.environ.get("SLIPWAY_LAUNCHER_TOKEN_FILE", "/run/secrets/launcher-token")))
    records = DeploymentRecords(Path(os.environ.get("SLIPWAY_LAUNCHER_RECORDS", "/var/lib/slipway-launcher")))
    launcher = Launcher(engine.DockerEngine(engine.client(), options), records)
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
