"""Errors as people and programs can use them: application/problem+json (RFC 9457), with a remedy."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from model_store.errors import Permanent, Retryable, SlipwayError
from model_store.registry import UnknownVersion
from model_store.unwritable import DiskFull, unwritable
from serving.control.freezes import AlreadyLifted, UnknownFreeze
from serving.control.rollout.control import ActSuperseded
from serving.control.rollout.journal import UnknownRelease
from serving.web.schemas import DESCRIPTIONS

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """Why a request was not carried out, and what to do about it."""

    type: str = "about:blank"
    title: str = Field(description="The kind of problem, in a few words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong with this request.")
    remedy: str = Field(description="What to do about it.")


class Conflict(Permanent):
    """Somebody else was faster, or it is too late: status 409. The words say who did what when."""


class Forbidden(Permanent):
    """The person may not do this, whatever their rights are: status 403."""


class NotFound(Permanent):
    """There is no such thing: status 404."""


_REMEDIES = {
    401: "Sign in: POST /auth/token gives a bearer token, /auth/login is the form.",
    403: "Ask somebody who administers Airflow for the permission, or somebody who has it to do this.",
    404: "Check the address and the names in it.",
    405: "See the API's documentation for what this address takes.",
    413: "Send less.",
    429: "Send fewer requests at once, and try again later.",
}


def _answer(request: Request, status: int, detail: str, remedy: str = "", headers: Any = None) -> Response:
    """As a page to who opened a page in a browser, else as a problem."""
    if not _wants_page(request):
        return problem(status, detail, remedy, headers)
    from serving.web.rendering import open_page

    said = "Nothing was done. " if request.method != "GET" and status < 500 else ""
    remedy = said + (remedy or _REMEDIES.get(status, "Go back, change what was asked for, and try again."))
    title = HTTPStatus(status).phrase
    return open_page(request, "problem", code=status, title=title, problem=detail, remedy=remedy)


def problem(status: int, detail: str, remedy: str = "", headers: Any = None) -> JSONResponse:
    """One problem as a response."""
    content = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        remedy=remedy or _REMEDIES.get(status, "Read the detail, change the request, and send it again."),
    )
    return JSONResponse(content.model_dump(), status, headers=headers, media_type=MEDIA_TYPE)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route: what else it may answer, described in the OpenAPI document.

    400 (what was sent cannot be decoded), 401, 403, 503 and 507 (a disk) may come from every endpoint.
    """
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "model": Problem, "content": {MEDIA_TYPE: schema}}
        for status in sorted({400, 401, 403, 503, 507, *statuses})
    }


def answer_with_problems(
    app: FastAPI, *, database: str = "", database_errors: Iterable[type[Exception]] = ()
) -> None:
    """Every error of this app leaves it as a problem; who opens a page without a login is sent to it.

    `database_errors`: what the `database` of whoever runs the page raises when its disk takes nothing.
    """

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.UNAUTHORIZED and _is_page(request):
            return _to_login(request)
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.UNAUTHORIZED:
            headers.setdefault("WWW-Authenticate", "Bearer")
        return _answer(request, error.status_code, str(error.detail), headers=headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return _answer(request, 422, "; ".join(_complaint(one) for one in error.errors()))

    @app.exception_handler(SlipwayError)
    async def _ours(request: Request, error: SlipwayError) -> Response:
        headers = {"Retry-After": f"{error.delay_seconds:.0f}"} if isinstance(error, Retryable) else None
        return _answer(request, status_of(error), error.problem, error.remedy, headers)

    async def _of_disks(request: Request, error: Exception) -> Response:
        """Whatever store it was that took nothing. Any other error of these kinds is a fault of ours."""
        if (why := unwritable(error, database=database)) is None:
            raise error
        return await _ours(request, why)

    kinds: list[type[Exception]] = [OSError, *database_errors]
    for kind in kinds:
        app.add_exception_handler(kind, _of_disks)


def status_of(error: SlipwayError) -> int:
    """The HTTP status that says what kind of error it is."""
    match error:
        case Conflict() | ActSuperseded() | AlreadyLifted():
            return 409
        case Forbidden():
            return 403
        case NotFound() | UnknownRelease() | UnknownFreeze() | UnknownVersion():
            return 404
        case DiskFull():
            return 507
        case Retryable():
            return 503
        case _:
            return 422


def _complaint(one: Any) -> str:
    """Which field, and why. What was sent is not repeated: it may be long, or a secret."""
    where = ".".join(str(part) for part in one["loc"])
    pattern = one.get("ctx", {}).get("pattern")
    return f"{where}: {DESCRIPTIONS.get(pattern) or one['msg'].removeprefix('Value error, ')}"


def _is_page(request: Request) -> bool:
    return request.method == "GET" and _wants_page(request)


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "") and "/api/" not in request.url.path


def _to_login(request: Request) -> Response:
    back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(request.app.state.host.login_url(back), 303)
