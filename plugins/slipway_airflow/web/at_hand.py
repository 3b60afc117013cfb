"""The library of this process: made when first asked for, then kept."""

from __future__ import annotations

import threading
from functools import cache

from starlette.concurrency import run_in_threadpool

from serving.control.queries.library import Library
from slipway_airflow.web.access import Reader, Right


@cache
def _made() -> Library:
    from serving import composition
    from serving.control.queries.brief import Keeper
    from slipway_airflow.airflow_runs import AirflowRuns

    services = composition.wire()
    return Library(services, AirflowRuns(), composition.metrics_of(services.home), keeper=Keeper())


_ONE_AT_A_TIME = threading.Lock()


def the_library() -> Library:
    """All of it, of every model. Waits for who makes it."""
    with _ONE_AT_A_TIME:
        return _made()


async def library(reader: Reader) -> Library:
    """A dependency of every endpoint that reads: what this person may see of the books.

    What is made already is given without changing threads.
    """
    whole = _made() if _made.cache_info().currsize else await run_in_threadpool(the_library)
    return whole if reader.may(Right.VIEW) else whole.shown_to(reader.sees)


def forget() -> None:
    """Let the next who asks make a library anew."""
    if _made.cache_info().currsize:
        _made().close()
    _made.cache_clear()
