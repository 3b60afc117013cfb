"""Every address of ours: what it takes, and what it answers to those who may."""

from __future__ import annotations

from typing import Any, NamedTuple

from serving.web.access import Right
from tests.airflow.world import MODEL

PAGES = ("", "releases", "history", "new", "freezes-page", f"models/{MODEL}", "releases/{release}")
READ = (
    "/models",
    "/standing-still",
    f"/models/{MODEL}",
    "/releases",
    "/releases/{release}",
    "/releases/{release}/series",
    "/history",
    "/history.csv",
    "/history.json",
    "/serving-at?at=2026-11-21T12:00:00Z",
)


class Endpoint(NamedTuple):
    """One address, and what asking it takes. `{release}` and `{asked}` stand for releases that exist."""

    name: str
    method: str
    path: str
    right: Right | None
    status: int
    body: dict[str, Any] | None = None


WHY = {"reason": "because"}
ENDPOINTS = [
    Endpoint("me", "GET", "/me", None, 200),
    Endpoint("preview", "GET", f"/releases/preview?model={MODEL}", Right.VIEW, 200),
    Endpoint("audit", "GET", "/audit", Right.VIEW, 200),
    Endpoint("freezes", "GET", "/freezes", Right.VIEW, 200),
    Endpoint("release", "POST", "/releases", Right.RELEASE, 202, {"model": MODEL, "version": "3", **WHY}),
    Endpoint(
        "override_at_once",
        "POST",
        "/releases",
        Right.ADMIN,
        202,
        {"model": MODEL, "version": "3", "override_freeze": True, **WHY},
    ),
    Endpoint("pause", "POST", "/releases/{release}/pause", Right.RELEASE, 200, WHY),
    Endpoint("resume", "POST", "/releases/{release}/resume", Right.RELEASE, 409, WHY),
    Endpoint("skip", "POST", "/releases/{release}/skip", Right.RELEASE, 200, WHY),
    Endpoint("abort", "POST", "/releases/{release}/abort", Right.RELEASE, 200, WHY),
    Endpoint("override", "POST", "/releases/{release}/override", Right.ADMIN, 200, WHY),
    Endpoint("rollback", "POST", f"/models/{MODEL}/rollback", Right.RELEASE, 202, WHY),
    Endpoint("approve", "POST", "/releases/{asked}/approve", Right.APPROVE, 200, WHY),
    Endpoint("reject", "POST", "/releases/{asked}/reject", Right.APPROVE, 200, WHY),
    Endpoint("freeze", "POST", "/freezes", Right.ADMIN, 201, WHY),
    Endpoint("lift", "POST", "/freezes/0123456789ab/lift", Right.ADMIN, 404, WHY),
    Endpoint("delete_freeze", "DELETE", "/freezes/0123456789ab?reason=because", Right.ADMIN, 404),
]
