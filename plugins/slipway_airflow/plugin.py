"""What Slipway adds to Airflow, registered in one place.

Airflow loads this module in every one of its processes, each task's too: nothing heavy may be imported here.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from serving.web.bodies import BoundedBodies
from slipway_airflow import links
from slipway_airflow.approval_renewal import RenewApprovalRequests
from slipway_airflow.middlewares import LoginBrake, body_limit
from slipway_airflow.page import LazyApp, PreparePages
from slipway_airflow.preloading import PreloadListener

_PAGES = LazyApp()


class SlipwayPlugin(AirflowPlugin):
    """Links, libraries loaded before tasks are forked, and the page and REST API under /slipway."""

    name = "slipway"
    operator_extra_links: list[Any] = list(links.ALL)  # noqa: RUF012 - as Airflow declares it
    listeners: list[Any] = [PreloadListener()]  # noqa: RUF012
    # Airflow checks nobody's login before it passes a request on: `slipway_airflow.authorization` does.
    fastapi_apps: list[Any] = [  # noqa: RUF012
        {"app": _PAGES, "url_prefix": "/slipway", "name": "Slipway"}
    ]
    # A task that was cleared and asks people again would show them what it asked before.
    fastapi_root_middlewares: list[Any] = [  # noqa: RUF012
        {
            "middleware": BoundedBodies,
            "args": [],
            "kwargs": {"limit": body_limit},
            "name": "Slipway: bounded bodies",
        },
        {"middleware": LoginBrake, "args": [], "kwargs": {}, "name": "Slipway: a brake on guesses"},
        {
            "middleware": RenewApprovalRequests,
            "args": [],
            "kwargs": {},
            "name": "Slipway: requests for approval",
        },
        {"middleware": PreparePages, "args": [], "kwargs": {"pages": _PAGES}, "name": "Slipway: warm pages"},
    ]
    external_views: list[Any] = [  # noqa: RUF012
        {
            "name": "Releases",
            "href": "/slipway/",
            "destination": "nav",
            "url_route": "slipway",
            "nav_top_level": True,
            "icon": "/slipway/static/mark/mark.svg",
        }
    ]
