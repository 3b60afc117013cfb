"""The library of this process: made when first asked for, then kept."""

from __future__ import annotations

import threading
from functools import cache

from starlette.concurrency import run_in_threadpool

from serving.control.queries.catalog import Catalog
from serving.web.access import Reader, Right


@cache
def _shared() -> Catalog:
    from slipway_airflow.airflow_runs import AirflowRuns

    from serving import composition
    from serving.control.queries.cached import Refresher

    services = composition.wire()
    return Catalog(services, AirflowRuns(), composition.metrics_of(services.home), refresher=Refresher())


_ONE_AT_A_TIME = threading.Lock()


def whole_catalog() -> Catalog:
    """All of it, of every model. Waits for who makes it."""
    with _ONE_AT_A_TIME:
        return _shared()


async def visible_catalog(reader: Reader) -> Catalog:
    """A dependency of every endpoint that reads: what this person may see of the books.

    What is made already is given without changing threads.
    """
    whole = _shared() if _shared.cache_info().currsize else await run_in_threadpool(whole_catalog)
    return whole if reader.may(Right.VIEW) else whole.shown_to(reader.sees)


def reset() -> None:
    """Let the next who asks make a library anew."""
    if _shared.cache_info().currsize:
        _shared().close()
    _shared.cache_clear()
