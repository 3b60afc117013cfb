"""The API's own description as a page: FastAPI's would load its script from another host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from serving.web.fields import API
from serving.web.rendering import open_page

router = APIRouter(prefix=API, include_in_schema=False)

_Schema = Mapping[str, Any]


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


@router.get("/docs")
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
