"""The FastAPI app of the page and its REST API, and its description as a page.

Whatever it runs in mounts it under `/slipway`. FastAPI's own description would load its script from another
host.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response

from serving.web import act_api, pages, read_api, webhooks
from serving.web.access import signed_in
from serving.web.bodies import BoundedBodies, of_ours
from serving.web.events import AssetEventQueue, announce_if_new
from serving.web.ports import Host
from serving.web.problems import answer_with_problems
from serving.web.read_api import whole_catalog
from serving.web.rendering import environment, open_page
from serving.web.schemas import API

_docs = APIRouter(prefix=API, include_in_schema=False)

_Schema = Mapping[str, Any]

DESCRIPTION = """\
Release models, watch, approve, stop and understand their rollouts.

Sign in as for Airflow's own API: `POST /auth/token` with user name and password gives a token for
`Authorization: Bearer ...`. What a person may do here follows from their permissions in Airflow. Every
change asks for a reason and is written to the audit trail. Errors are `application/problem+json` (RFC 9457)
and say their remedy.
"""


def make_app(host: Host) -> FastAPI:
    """All of Slipway's endpoints, in `host`."""
    app = FastAPI(
        title="Slipway",
        version="1",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{API}/openapi.json",
    )
    app.state.host = host
    app.state.asset_events = AssetEventQueue(partial(announce_if_new, host.dags))
    app.add_middleware(BoundedBodies, limit=of_ours)
    answer_with_problems(app, database=host.database, database_errors=host.database_errors)
    # Nobody gets past these two, whatever an endpoint itself asks for.
    login = [Depends(host.authenticate), Depends(signed_in)]
    for router in (act_api.router, act_api.freezes, read_api.router):
        app.include_router(router, dependencies=login)
    # The order matters where paths overlap: pages match last.
    for router in (webhooks.router, _docs, pages.open_router):
        app.include_router(router)
    app.include_router(pages.router, dependencies=login)
    return app


def prepare(host: Host) -> None:
    """Read every file and compile every template, so that whoever comes first does not wait."""
    templates = environment()
    for name in templates.list_templates():
        templates.get_template(name)
    whole_catalog(host.runs).warm()
    # What is alive now stays: to look through a million objects for garbage again and again takes 0.2 s each
    # time, in which nobody gets an answer.
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, slots=True)
class ParameterDoc:
    """A parameter, or a field of the body. `where`: path, query, header or body."""

    name: str
    where: str
    kind: str
    is_needed: bool
    words: str


@dataclass(frozen=True, slots=True)
class OperationDoc:
    """What one address does with one method. `answers`: status and what it means."""

    method: str
    path: str
    summary: str
    words: str
    parts: tuple[ParameterDoc, ...]
    answers: tuple[tuple[str, str], ...]


@_docs.get("/docs")
def docs(request: Request) -> Response:
    """Every address, what it takes and what it answers. It takes no login, as the document it shows."""
    document: dict[str, Any] = request.app.openapi()
    return open_page(request, "docs", info=document["info"], operations=list(operations_of(document)))


def operations_of(document: _Schema) -> Iterator[OperationDoc]:
    """In the order of the document."""
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            yield OperationDoc(
                method.upper(),
                path,
                said.get("summary", ""),
                said.get("description", ""),
                tuple(_parts(document, said)),
                tuple((status, one["description"]) for status, one in said["responses"].items()),
            )


def _parts(document: _Schema, said: _Schema) -> Iterator[ParameterDoc]:
    for one in said.get("parameters", ()):
        kind = _kind(one["schema"])
        yield ParameterDoc(
            one["name"], one["in"], kind, one.get("required", False), one.get("description", "")
        )
    for media in said.get("requestBody", {}).get("content", {}).values():
        schema = media["schema"]
        if ref := schema.get("$ref"):
            schema = document["components"]["schemas"][_last(ref)]
        for name, field in schema.get("properties", {}).items():
            is_needed = name in schema.get("required", ())
            yield ParameterDoc(name, "body", _kind(field), is_needed, field.get("description", ""))


def _kind(schema: _Schema) -> str:
    if ref := schema.get("$ref"):
        return _last(ref)
    if choices := schema.get("anyOf"):
        return " or ".join(_kind(one) for one in choices)
    if values := schema.get("enum"):
        return " or ".join(map(str, values))
    if "const" in schema:
        return repr(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return str(schema.get("type", "anything"))


def _last(ref: str) -> str:
    return ref.rpartition("/")[2]
