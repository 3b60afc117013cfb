"""The Releases page: written on the server, kept fresh by asking for its live part again.

`?part=live` gives only what changes; the script puts it in place when its ETag is another.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response

from serving.control.queries.catalog import Catalog, InTheFuture, NothingFound
from serving.control.queries.flow import StepFlow
from serving.control.queries.statuses import ReleaseStatus
from serving.control.specs import complaints_about, dag_id_of
from serving.web import charts
from serving.web.access import Reader, Right, give_csrf_token
from serving.web.ports import InHost
from serving.web.problems import NotFound
from serving.web.read_api import HistoryQuery, Page, Text, visible_catalog, with_etag
from serving.web.rendering import MEDIA_TYPES, SECURITY, render, static_files
from serving.web.schemas import in_utc

router = APIRouter(include_in_schema=False)
# What takes no login: nothing of anybody is in it.
open_router = APIRouter(include_in_schema=False)

Books = Annotated[Catalog, Depends(visible_catalog)]
Part = Literal["", "live"]
# Pages whose live part is asked for again and again.
LIVE = ("overview", "model", "releases", "release")
FOR_EVER = "public, max-age=31536000, immutable"


class PageContext:
    """What every page needs: who reads, where the page is mounted, and what is asked for."""

    def __init__(self, request: Request, reader: Reader, catalog: Books, part: Part = "") -> None:
        self.request = request
        self.reader = reader
        self.catalog = catalog
        self.part = part

    def page(self, name: str, *, code: int = 200, **values: Any) -> Response:
        """`name.html`, or its live part."""
        root = str(self.request.scope.get("root_path", ""))
        html = render(
            f"live/{name}.html" if self.part and name in LIVE else f"{name}.html",
            base=root,
            airflow=root.removesuffix("/slipway"),
            here=name,
            reader=self.reader,
            may={right.value: self.reader.may(right, values.get("model_name")) for right in Right},
            now=self.catalog.now(),
            freezes=self.catalog.freezes(),
            live_url=str(self.request.url.include_query_params(part="live").replace(scheme="", netloc="")),
            **values,
        )
        response = with_etag(self.request, html.encode(), "text/html", SECURITY)
        if response.status_code == 200:
            response.status_code = code
        give_csrf_token(self.request, response, self.reader)
        return response


Showing = Annotated[PageContext, Depends(PageContext)]


@router.get("/")
def overview(show: Showing, q: Text = "", only: Text = "", page: Page = 1) -> Response:
    """Every model."""
    found = show.catalog.overview(query=q, only=only, page=page)
    return show.page("overview", found=found, q=q, only=only)


@router.get("/models/{model}")
def model(show: Showing, host: InHost, model: str, page: Page = 1) -> Response:
    """One model: what serves, and all its releases."""
    try:
        row = show.catalog.model(model)
    except NothingFound as missing:
        return _missing(show, missing)
    releases = show.catalog.releases(model=model, page=page)
    returnable = show.catalog.returnable(model)
    return show.page(
        "model",
        row=row,
        found=releases,
        returnable=returnable,
        model_name=model,
        complaints=complaints_about(host.specs(), model),
        dag_id=dag_id_of(model),
    )


@router.get("/releases")
def releases(show: Showing, model: Text = "", status: Text = "", page: Page = 1) -> Response:
    """Releases of all models."""
    known = status if status in (*ReleaseStatus, "under_way") else ""
    found = show.catalog.releases(model=model, status=known, page=page)
    return show.page(
        "releases",
        found=found,
        model=model,
        status=known,
        statuses=[one for one in ReleaseStatus if one is not ReleaseStatus.UNKNOWN],
    )


@router.get("/releases/{release_id}")
def release(show: Showing, release_id: str) -> Response:
    """One release."""
    try:
        view = show.catalog.release(release_id)
    except NothingFound as missing:
        return _missing(show, missing)
    try:
        series = show.catalog.series(release_id)
    except NothingFound:
        drawn: list[charts.Chart] = []
        steps: tuple[StepFlow, ...] = ()
    else:
        drawn, steps = charts.all_of(series), series.steps
    return show.page("release", view=view, charts=drawn, steps=steps, model_name=view.row.model)


@router.get("/history")
def history(show: Showing, wanted: HistoryQuery, at: Text = "", page: Page = 1) -> Response:
    """What happened, and what served at a moment."""
    moment = _moment(at)
    served, not_yet = None, None
    try:
        served = show.catalog.serving_at(moment) if moment else None
    except InTheFuture as future:
        not_yet = future
    return show.page(
        "history",
        found=show.catalog.history(wanted, page=page),
        wanted=wanted,
        moment=moment,
        served=served,
        not_yet=not_yet,
        people=show.catalog.people(),
        actions=show.catalog.actions(),
        models=show.catalog.names(),
        query=str(show.request.url.query),
    )


@router.get("/new")
def new(show: Showing, model: Text = "", version: Text = "") -> Response:
    """The form that starts a release."""
    names = [name for name in show.catalog.names() if show.reader.may(Right.RELEASE, name)]
    return show.page("new", model=model, version=version, models=names, model_name=model or None)


@router.get("/freezes-page")
def freezes(show: Showing) -> Response:
    """When nothing rolls out."""
    return show.page("freezes", models=show.catalog.names())


@open_router.get("/static/{digest}/{name}")
def static(digest: str, name: str) -> Response:
    """The style sheet and the scripts. Their address has their digest, so they are kept for ever."""
    content = static_files().get(name)
    if content is None:
        raise NotFound(f"there is no {name}", remedy="reload the page")
    media = MEDIA_TYPES[name[name.rindex(".") :]]
    return Response(content, media_type=media, headers={**SECURITY, "Cache-Control": FOR_EVER})


def _moment(text: str) -> datetime | None:
    """What the form sent; nothing, or no time, asks for nothing."""
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError:
        return None


def _missing(show: PageContext, missing: NothingFound) -> Response:
    return show.page("missing", code=404, problem=missing)
