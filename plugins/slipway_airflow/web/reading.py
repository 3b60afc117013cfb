"""The reading half of the REST API: models, releases, what happened, and what served when."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from serving.control.queries.acts import Filter
from serving.control.queries.export import csv_lines
from serving.control.queries.library import Library, NothingThere
from serving.control.queries.series import Series
from serving.control.queries.statuses import Status
from serving.control.queries.views import (
    History,
    ModelRow,
    Moment,
    Overview,
    Releases,
    ReleaseView,
    RollbackRow,
    ServingAt,
    Still,
)
from slipway_airflow.web.access import reads
from slipway_airflow.web.answers import json_answer, kept_answer
from slipway_airflow.web.app import API
from slipway_airflow.web.at_hand import library
from slipway_airflow.web.moments import When
from slipway_airflow.web.problems import NotThere, problems
from slipway_airflow.web.words import ModelPath, ReleasePath, RollbackPath

router = APIRouter(prefix=API, tags=["reading"], dependencies=[Depends(reads)])

_CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {}}}, **problems(422)}

Books = Annotated[Library, Depends(library)]
Page = Annotated[int, Query(ge=1, le=1_000_000, description="Which page of results, from 1.")]
Text = Annotated[str, Query(max_length=200)]
Moments = Annotated[When | None, Query(description="ISO 8601; without a zone it is UTC.")]


async def wanted(
    model: Text = "", who: Text = "", action: Text = "", since: Moments = None, until: Moments = None
) -> Filter:
    """What part of the history is asked for."""
    return Filter(model, who, action, since, until)


Wanted = Annotated[Filter, Depends(wanted)]


@router.get("/models", response_model=Overview, responses=problems(422))
def models(
    request: Request,
    books: Books,
    q: Text = "",
    only: Literal["", "under_way", "waiting", "unwell"] = "",
    page: Page = 1,
) -> Any:
    """Every model: what serves, its health now, the rollout under way, who waits, and for whom."""
    return kept_answer(request, books.overview(query=q, only=only, page=page))


@router.get("/standing-still", response_model=list[Still])
def standing_still(request: Request, books: Books) -> Any:
    """Everything that does not go on by itself: what keeps all models, a model, or a release, why, and what a
    person can do about it. Of models that you may see."""
    return json_answer(request, books.standing_still())


@router.get("/models/{model}", response_model=ModelRow, responses=problems(404, 422))
def model(request: Request, books: Books, model: ModelPath) -> Any:
    """One model."""
    try:
        return json_answer(request, books.model(model))
    except NothingThere as missing:
        raise NotThere(missing.problem, remedy=missing.remedy) from None


@router.get(
    "/models/{model}/rollbacks/{rollback_id}", response_model=RollbackRow, responses=problems(404, 422)
)
def rollback(request: Request, books: Books, model: ModelPath, rollback_id: RollbackPath) -> Any:
    """How far a rollback has come, by the route: requested, under way, or since when all requests go to the
    version that was wanted."""
    try:
        return json_answer(request, books.rollback(model, rollback_id))
    except NothingThere as missing:
        raise NotThere(missing.problem, remedy=missing.remedy) from None


@router.get("/releases", response_model=Releases, responses=problems(422))
def releases(
    request: Request,
    books: Books,
    model: Text = "",
    status: Literal["", "under_way"] | Status = "",
    page: Page = 1,
) -> Any:
    """Releases, the newest first, 50 a page."""
    return json_answer(request, books.releases(model=model, status=status, page=page))


@router.get("/releases/{release_id}", response_model=ReleaseView, responses=problems(404, 422))
def release(request: Request, books: Books, release_id: ReleasePath) -> Any:
    """One release: plan and split, verdict in words, what was tried, steps with durations, links."""
    try:
        return json_answer(request, books.release(release_id))
    except NothingThere as missing:
        raise NotThere(missing.problem, remedy=missing.remedy) from None


@router.get("/releases/{release_id}/series", response_model=Series, responses=problems(404, 422))
def series(request: Request, books: Books, release_id: ReleasePath) -> Any:
    """Both arms over time: failed and slow answers with bands, what became of all, the candidate's share."""
    try:
        return kept_answer(request, books.series(release_id))
    except NothingThere as missing:
        raise NotThere(missing.problem, remedy=missing.remedy) from None


@router.get("/history", response_model=History, responses=problems(422))
def history(request: Request, books: Books, wanted: Wanted, page: Page = 1) -> Any:
    """Who changed what in production, and what Slipway did by itself: the newest first, 50 a page."""
    return json_answer(request, books.history(wanted, page=page))


@router.get("/history.csv", response_class=Response, responses=_CSV)
def history_csv(books: Books, wanted: Wanted) -> StreamingResponse:
    """All of it as a table. What a spreadsheet would take for a formula is kept as text."""
    headers = {"Content-Disposition": 'attachment; filename="slipway-history.csv"'}
    return StreamingResponse(csv_lines(books.everything(wanted)), media_type="text/csv", headers=headers)


@router.get("/history.json", response_model=list[Moment], responses=problems(422))
def history_json(request: Request, books: Books, wanted: Wanted) -> Any:
    """All of it as a list."""
    answer = json_answer(request, list(books.everything(wanted)))
    answer.headers["Content-Disposition"] = 'attachment; filename="slipway-history.json"'
    return answer


@router.get("/serving-at", response_model=ServingAt, responses=problems(422))
def serving_at(request: Request, books: Books, at: When) -> Any:
    """Which versions had which share of each model's requests at a moment."""
    return json_answer(request, books.serving_at(at))
