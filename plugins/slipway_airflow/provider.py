"""What Airflow lists of this package among its providers (`airflow providers list`)."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any


def get_provider_info() -> dict[str, Any]:
    """As Airflow's `provider_info.schema.json` wants it. The plugin is an entry point of its own."""
    return {
        "package-name": "slipway",
        "name": "Slipway",
        "description": "Releases machine-learning models: registry to users, and out again by itself.",
        "versions": [version("slipway")],
    }
