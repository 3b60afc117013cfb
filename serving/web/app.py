"""The FastAPI app of the page and its REST API. Whatever it runs in mounts it under `/slipway`."""

from __future__ import annotations

import gc
from functools import partial

from fastapi import Depends, FastAPI

from serving.web import act_api, api_docs, freeze_api, pages, read_api, webhooks
from serving.web.access import signed_in
from serving.web.asset_events import AssetEventQueue, announce_if_new
from serving.web.fields import API
from serving.web.ports import Host
from serving.web.problems import answer_with_problems
from serving.web.rendering import environment
from serving.web.shared_catalog import whole_catalog

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
    answer_with_problems(app, database=host.database, database_errors=host.database_errors)
    # Nobody gets past these two, whatever an endpoint itself asks for.
    login = [Depends(host.authenticate), Depends(signed_in)]
    for router in (act_api.router, freeze_api.router, read_api.router):
        app.include_router(router, dependencies=login)
    # The order matters where paths overlap: pages match last.
    for router in (webhooks.router, api_docs.router, pages.open_router):
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
