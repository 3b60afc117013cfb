"""Which Envoys there are and what each has taken, as the server writes it down for other processes.

It never says more than Envoys have said: what is acknowledged stays so when the server ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import orjson

from serving.gateway.delivery.base import Proxy, ProxyState
from serving.home import Home


def path(home: Home) -> Path:
    # Not beside what is told: whoever follows that would follow what follows from it.
    return home.root / "proxies.json"


def read(home: Home) -> list[Proxy]:
    """Those that the file names; none if there is none. How they are a server that has ended cannot know."""
    try:
        saved = orjson.loads(path(home).read_bytes())
        found = [Proxy.from_json(each) for each in saved["proxies"]]
        return found if _runs(saved["pid"]) else [_as_left(each) for each in found]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _as_left(proxy: Proxy) -> Proxy:
    if not proxy.is_ready:
        return proxy
    return replace(proxy, state=ProxyState.STALE, words="no server runs: it keeps what it was told last")


def write(home: Home, proxies: Iterable[Proxy]) -> None:
    found = {"pid": os.getpid(), "proxies": [each.to_json() for each in proxies]}
    draft = path(home).with_suffix(".new")
    # Not synced: after a power cut it would be of Envoys that are not there any more.
    draft.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    draft.replace(path(home))
