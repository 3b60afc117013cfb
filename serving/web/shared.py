"""What all readers share: one catalog of the process, and answers that are encoded and fetched once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import blake2b
from typing import Any

import orjson
from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from serving.control.queries.catalog import Catalog
from serving.control.queries.runs import Runs
from serving.web.access import Reader, Right
from serving.web.ports import InHost

JSON = "application/json"
# Of so many values the bytes are kept.
_KEPT = 64
_ONE_AT_A_TIME = threading.Lock()
_made: list[Catalog] = []


def whole_catalog(runs: Runs) -> Catalog:
    """All of it, of every model. Waits for who makes it."""
    with _ONE_AT_A_TIME:
        if not _made:
            _made.append(_make(runs))
        return _made[0]


def _make(runs: Runs) -> Catalog:
    from serving import composition
    from serving.control.queries.cached import Refresher

    services = composition.wire_pages()
    return Catalog(services, runs, composition.metrics_of(services.home), refresher=Refresher())


async def visible_catalog(reader: Reader, host: InHost) -> Catalog:
    """A dependency of every endpoint that reads: what this person may see of the books.

    What is made already is given without changing threads.
    """
    whole = _made[0] if _made else await run_in_threadpool(whole_catalog, host.runs)
    return whole if reader.may(Right.VIEW) else whole.shown_to(reader.sees)


def is_made() -> bool:
    """Whether nobody has to wait for it."""
    return bool(_made)


def reset() -> None:
    """Let the next who asks make a catalog anew."""
    while _made:
        _made.pop().close()


class EncodedValues:
    """Values that many are shown, as JSON with their ETag. A value that changes is another object."""

    def __init__(self) -> None:
        self._guarded = threading.Lock()
        # Keeping the value as well keeps its identity from becoming another's.
        self._kept: OrderedDict[int, tuple[Any, bytes, str]] = OrderedDict()

    def of(self, value: Any) -> tuple[bytes, str]:
        """The value's bytes and their ETag."""
        known = self._kept.get(id(value))
        if known is None or known[0] is not value:
            content = orjson.dumps(value)
            known = value, content, etag_of(content)
            with self._guarded:
                self._kept[id(value)] = known
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return known[1], known[2]


_ENCODED = EncodedValues()


def etag_of(content: bytes) -> str:
    return f'"{blake2b(content, digest_size=12).hexdigest()}"'


def with_etag(
    request: Request,
    content: bytes,
    media_type: str,
    headers: dict[str, str] | None = None,
    *,
    etag: str | None = None,
) -> Response:
    """The content, or 304 if the asker has just this already."""
    etag = etag or etag_of(content)
    said = {"ETag": etag, "Cache-Control": "private, no-cache", **(headers or {})}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=said)
    return Response(content, media_type=media_type, headers=said)


def json_answer(request: Request, value: Any) -> Response:
    """Dataclasses, times and all, as JSON."""
    return with_etag(request, orjson.dumps(value), JSON)


def cached_json_answer(request: Request, value: Any) -> Response:
    """As `json_answer`, of a value that is given to many who ask: it is encoded once."""
    content, etag = _ENCODED.of(value)
    return with_etag(request, content, JSON, etag=etag)
