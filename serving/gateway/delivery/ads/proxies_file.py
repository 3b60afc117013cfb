"""Which Envoys there are and what each has taken, as the server writes it down for other processes.

It never says more than Envoys have said: what is acknowledged stays so when the server ends. Whether one
runs a lock says, which the kernel drops with its process: readers may be in another container, to which its
process id means nothing.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson

from serving.gateway.delivery.base import Proxy, ProxyState
from serving.home import Home

log = logging.getLogger(__name__)


def path(home: Home) -> Path:
    # Not beside what is told: whoever follows that would follow what follows from it.
    return home.root / "proxies.json"


def read(home: Home) -> list[Proxy]:
    """Those that the file names; none if there is none. How they are a server that has ended cannot know."""
    try:
        saved = orjson.loads(path(home).read_bytes())
        found = [Proxy.from_json(each) for each in saved["proxies"]]
        return found if _runs(home) else [_as_left(each) for each in found]
    except (OSError, ValueError, LookupError, TypeError):
        return []


@contextmanager
def served(home: Home) -> Iterator[None]:
    """While a server runs. Without room for a lock it runs all the same, and is not known to."""
    try:
        descriptor = os.open(_lock(home), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        log.warning("others cannot see that Envoys are told: %s", problem)
        yield
        return
    try:
        # Shared: of several servers of one home any is enough. Readers have it for a moment.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _runs(home: Home) -> bool:
    """As far as can be seen: who may not look believes the file."""
    try:
        descriptor = os.open(_lock(home), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _lock(home: Home) -> Path:
    return home.root / "proxies.lock"


def _as_left(proxy: Proxy) -> Proxy:
    if not proxy.is_ready:
        return proxy
    return replace(proxy, state=ProxyState.STALE, words="no server runs: it keeps what it was told last")


def write(home: Home, proxies: Iterable[Proxy]) -> None:
    found = {"proxies": [each.to_json() for each in proxies]}
    draft = path(home).with_suffix(".new")
    # Not synced: after a power cut it would be of Envoys that are not there any more.
    draft.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    draft.replace(path(home))
