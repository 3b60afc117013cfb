"""The library of this process: made when first asked for, then kept."""

from __future__ import annotations

import threading
from functools import cache

from slipway_airflow.books.library import Library
from slipway_airflow.web.access import Reader, Right


@cache
def _made() -> Library:
    from serving.metrics.envoy import EnvoyAdmin
    from slipway_airflow import wiring
    from slipway_airflow.books.airflow_runs import AirflowRuns

    services = wiring.wire()
    return Library(services, AirflowRuns(), EnvoyAdmin(services.home.envoy_admin_url))


_ONE_AT_A_TIME = threading.Lock()


def library(reader: Reader) -> Library:
    """A dependency of every endpoint that reads: what this person may see of the books."""
    with _ONE_AT_A_TIME:
        whole = _made()
    return whole if reader.may(Right.VIEW) else whole.shown_to(reader.sees)
