"""The reading half of the REST API: models, releases, what happened, and what served when.

All readers share one catalog of the process, and answers that are encoded and fetched once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import blake2b
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from serving.control.queries.activity import HistoryFilter, csv_lines
from serving.control.queries.catalog import Catalog, NothingFound
from serving.control.queries.runs import Runs
from serving.control.queries.series import Series
from serving.control.queries.statuses import ReleaseStatus
from serving.control.queries.views import (
    BlockerRow,
    History,
    HistoryEvent,
    ModelRow,
    Overview,
    ReleasePage,
    ReleaseView,
    RollbackRow,
    ServingAt,
)
from serving.web.access import Reader, Right, reads
from serving.web.ports import InHost
from serving.web.problems import NotFound, problems
from serving.web.schemas import API, ModelPath, ReleasePath, RollbackPath, When

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


router = APIRouter(prefix=API, tags=["reading"], dependencies=[Depends(reads)])

_CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {}}}, **problems(422)}

VisibleCatalog = Annotated[Catalog, Depends(visible_catalog)]
Page = Annotated[int, Query(ge=1, le=1_000_000, description="Which page of results, from 1.")]
Text = Annotated[str, Query(max_length=200)]
Timestamp = Annotated[When | None, Query(description="ISO 8601; without a zone it is UTC.")]


async def history_filter(
    model: Text = "", who: Text = "", action: Text = "", since: Timestamp = None, until: Timestamp = None
) -> HistoryFilter:
    """What part of the history is asked for."""
    return HistoryFilter(model, who, action, since, until)


HistoryQuery = Annotated[HistoryFilter, Depends(history_filter)]


@router.get("/models", response_model=Overview, responses=problems(422))
def models(
    request: Request,
    catalog: VisibleCatalog,
    q: Text = "",
    only: Literal["", "under_way", "waiting", "unwell"] = "",
    page: Page = 1,
) -> Any:
    """Every model: what serves, its health now, the rollout under way, who waits, and for whom."""
    return cached_json_answer(request, catalog.overview(query=q, only=only, page=page))


@router.get("/standing-still", response_model=list[BlockerRow])
def standing_still(request: Request, catalog: VisibleCatalog) -> Any:
    """Everything that does not go on by itself: what keeps all models, a model, or a release, why, and what a
    person can do about it. Of models that you may see."""
    return json_answer(request, catalog.standing_still())


@router.get("/models/{model}", response_model=ModelRow, responses=problems(404, 422))
def model(request: Request, catalog: VisibleCatalog, model: ModelPath) -> Any:
    """One model."""
    try:
        return json_answer(request, catalog.model(model))
    except NothingFound as missing:
        raise NotFound(missing.problem, remedy=missing.remedy) from None


@router.get(
    "/models/{model}/rollbacks/{rollback_id}", response_model=RollbackRow, responses=problems(404, 422)
)
def rollback(request: Request, catalog: VisibleCatalog, model: ModelPath, rollback_id: RollbackPath) -> Any:
    """How far a rollback has come, by the route: requested, under way, or since when all requests go to the
    version that was wanted."""
    try:
        return json_answer(request, catalog.rollback(model, rollback_id))
    except NothingFound as missing:
        raise NotFound(missing.problem, remedy=missing.remedy) from None


@router.get("/releases", response_model=ReleasePage, responses=problems(422))
def releases(
    request: Request,
    catalog: VisibleCatalog,
    model: Text = "",
    status: Literal["", "under_way"] | ReleaseStatus = "",
    page: Page = 1,
) -> Any:
    """Releases, the newest first, 50 a page."""
    return json_answer(request, catalog.releases(model=model, status=status, page=page))


@router.get("/releases/{release_id}", response_model=ReleaseView, responses=problems(404, 422))
def release(request: Request, catalog: VisibleCatalog, release_id: ReleasePath) -> Any:
    """One release: plan and split, verdict in words, what was tried, steps with durations, links."""
    try:
        return json_answer(request, catalog.release(release_id))
    except NothingFound as missing:
        raise NotFound(missing.problem, remedy=missing.remedy) from None


@router.get("/releases/{release_id}/series", response_model=Series, responses=problems(404, 422))
def series(request: Request, catalog: VisibleCatalog, release_id: ReleasePath) -> Any:
    """Both arms over time: failed and slow answers with bands, what became of all, the candidate's share."""
    try:
        return cached_json_answer(request, catalog.series(release_id))
    except NothingFound as missing:
        raise NotFound(missing.problem, remedy=missing.remedy) from None


@router.get("/history", response_model=History, responses=problems(422))
def history(request: Request, catalog: VisibleCatalog, wanted: HistoryQuery, page: Page = 1) -> Any:
    """Who changed what in production, and what Slipway did by itself: the newest first, 50 a page."""
    return json_answer(request, catalog.history(wanted, page=page))


@router.get("/history.csv", response_class=Response, responses=_CSV)
def history_csv(catalog: VisibleCatalog, wanted: HistoryQuery) -> StreamingResponse:
    """All of it as a table. What a spreadsheet would take for a formula is kept as text."""
    headers = {"Content-Disposition": 'attachment; filename="slipway-history.csv"'}
    return StreamingResponse(csv_lines(catalog.everything(wanted)), media_type="text/csv", headers=headers)


@router.get("/history.json", response_model=list[HistoryEvent], responses=problems(422))
def history_json(request: Request, catalog: VisibleCatalog, wanted: HistoryQuery) -> Any:
    """All of it as a list."""
    answer = json_answer(request, list(catalog.everything(wanted)))
    answer.headers["Content-Disposition"] = 'attachment; filename="slipway-history.json"'
    return answer


@router.get("/serving-at", response_model=ServingAt, responses=problems(422))
def serving_at(request: Request, catalog: VisibleCatalog, at: When) -> Any:
    """Which versions had which share of each model's requests at a moment."""
    return json_answer(request, catalog.serving_at(at))
