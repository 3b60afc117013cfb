"""The reading half of the REST API: models, releases, what happened, and what served when."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from serving.control.queries.activity import HistoryFilter, csv_lines
from serving.control.queries.catalog import Catalog, NothingFound
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
from serving.web.access import reads
from serving.web.fields import API, ModelPath, ReleasePath, RollbackPath, When
from serving.web.problems import NotFound, problems
from serving.web.shared import cached_json_answer, json_answer, visible_catalog

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
