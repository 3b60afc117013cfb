"""The catalog of this process: made when first asked for, then kept."""

from __future__ import annotations

import threading

from starlette.concurrency import run_in_threadpool

from serving.control.queries.catalog import Catalog
from serving.control.queries.runs import Runs
from serving.web.access import Reader, Right
from serving.web.ports import InHost

_ONE_AT_A_TIME = threading.Lock()
_made: list[Catalog] = []


def whole_catalog(runs: Runs) -> Catalog:
    """All of it, of every model. Waits for who makes it."""
    with _ONE_AT_A_TIME:
        if not _made:
            _made.append(_make(runs))
        return _made[0]


def _make(runs: Runs) -> Catalog:
    from serving import composition
    from serving.control.queries.cached import Refresher

    services = composition.wire()
    return Catalog(services, runs, composition.metrics_of(services.home), refresher=Refresher())


async def visible_catalog(reader: Reader, host: InHost) -> Catalog:
    """A dependency of every endpoint that reads: what this person may see of the books.

    What is made already is given without changing threads.
    """
    whole = _made[0] if _made else await run_in_threadpool(whole_catalog, host.runs)
    return whole if reader.may(Right.VIEW) else whole.shown_to(reader.sees)


def is_made() -> bool:
    """Whether nobody has to wait for it."""
    return bool(_made)


def reset() -> None:
    """Let the next who asks make a catalog anew."""
    while _made:
        _made.pop().close()
