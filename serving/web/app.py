"""The FastAPI app under /slipway (`slipway_airflow.mount`)."""

from __future__ import annotations

from importlib import import_module

from fastapi import FastAPI

from serving.web.problems import answer_with_problems

PREFIX = "/slipway"
API = "/api/v1"
# Every module has a `router`. The order matters where paths overlap: pages match last.
ROUTERS = ("act_api", "freeze_api", "read_api", "webhooks", "api_docs", "pages")

DESCRIPTION = """\
Release models, watch, approve, stop and understand their rollouts.

Sign in as for Airflow's own API: `POST /auth/token` with user name and password gives a token for
`Authorization: Bearer ...`. What a person may do here follows from their permissions in Airflow. Every
change asks for a reason and is written to the audit trail. Errors are `application/problem+json` (RFC 9457)
and say their remedy.
"""


def make_app() -> FastAPI:
    """All of Slipway's endpoints."""
    app = FastAPI(
        title="Slipway",
        version="1",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{API}/openapi.json",
    )
    answer_with_problems(app)
    for name in ROUTERS:
        app.include_router(import_module(f"serving.web.{name}").router)
    return app
