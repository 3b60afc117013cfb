"""What Slipway adds to Airflow, registered in one place.

Airflow loads this file in every one of its processes, each task's too: nothing heavy may be imported here.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin
from slipway_airflow import links
from slipway_airflow.warm import BeforeForking


class SlipwayPlugin(AirflowPlugin):
    """Links from tasks to MLflow and Data Docs, and libraries loaded before tasks are forked."""

    name = "slipway"
    operator_extra_links: list[Any] = list(links.ALL)  # noqa: RUF012 - as Airflow declares it
    listeners: list[Any] = [BeforeForking()]  # noqa: RUF012
