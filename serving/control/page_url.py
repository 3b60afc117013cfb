"""Where people's browsers find what there is. A release: inside Airflow, on the Releases page."""

from __future__ import annotations

import os
from urllib.parse import quote

from model_store.registry.rest import MLFLOW_BASE_URL
from serving.home import Home

# Airflow shows the page `/slipway/...` of a plugin in its own frame under this address.
FRAME = "/plugin/slipway"


def people_urls(home: Home) -> dict[str, str]:
    """Of Airflow, MLflow and the gateway: where programs find them, unless the environment names another."""
    usual = {
        "airflow": ("AIRFLOW__API__BASE_URL", home.airflow_url),
        "mlflow": (MLFLOW_BASE_URL, home.mlflow_url),
        "gateway": ("SLIPWAY_GATEWAY_BASE_URL", home.gateway_url),
    }
    return {name: (os.environ.get(variable) or url).rstrip("/") for name, (variable, url) in usual.items()}


def releases_page(home: Home) -> str:
    """The whole address of the page."""
    return f"{people_urls(home)['airflow']}{FRAME}/slipway"


def release_page(home: Home, release_id: str) -> str:
    """The whole address, for links in MLflow, messages and tasks."""
    return f"{releases_page(home)}/releases/{quote(release_id, safe='')}"
