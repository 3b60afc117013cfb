"""Where people see a release: inside Airflow, on the Releases page."""

from __future__ import annotations

import os
from urllib.parse import quote

from serving.home import Home

# Airflow shows the page `/slipway/...` of a plugin in its own frame under this address.
FRAME = "/plugin/slipway"


def release_page(home: Home, release_id: str) -> str:
    """The whole address, for links in MLflow, messages and tasks."""
    base = os.environ.get("AIRFLOW__API__BASE_URL") or home.airflow_url
    return f"{base.rstrip('/')}{FRAME}/slipway/releases/{quote(release_id, safe='')}"
