"""Whether Linux lets Envoy watch one more file.

Envoy opens one inotify instance per watched file and aborts when it gets none (1.40: verified), so we ask
before we give it another file. Most distributions allow a user 128 instances: enough for about 60 services.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import ExitStack
from pathlib import Path

from model_store.errors import Permanent
from serving.home import FILES, Home

_LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
# Those that every Envoy has (clusters, routes, readiness, API keys, their rates), and some for services.
_SPARE = 7
# The files of one service: its endpoints, and stable's alone for repeats (`serving.gateway.delivery.files`).
PER_SERVICE = 2


class TooManyWatches(Permanent):
    """Another watched file would end Envoy."""


def instance_limit() -> int | None:
    """How many inotify instances a user may have; None where that is unknown."""
    try:
        return int(_LIMIT.read_text())
    except (OSError, ValueError):
        return None


def watched_services(home: Home) -> int:
    """How many services Envoy watches files of once it runs."""
    return len(list(home.routes.glob("*/endpoints.json")))


def require_all(home: Home) -> None:
    """For a stack that does not run. Raises `TooManyWatches` if Envoy could not start, or take one more."""
    if home.delivery == FILES:
        require_spare(watched_services(home) * PER_SERVICE + _SPARE)


def require_spare(count: int = _SPARE) -> None:
    """Raises `TooManyWatches` unless this user may open `count` more inotify instances now."""
    open_instance = getattr(ctypes.CDLL(None, use_errno=True), "inotify_init", None)
    if open_instance is None:
        return
    with ExitStack() as opened:
        for _ in range(count):
            if (descriptor := open_instance()) < 0:
                raise TooManyWatches(
                    f"Linux lets this user watch no more files, and Envoy needs {PER_SERVICE} per service"
                    + (f" (limit {_LIMIT.read_text().strip()})" if _LIMIT.exists() else ""),
                    remedy="sudo sysctl fs.inotify.max_user_instances=4096, or start with "
                    "SLIPWAY_GATEWAY_DELIVERY=ads, which needs none",
                )
            opened.callback(os.close, descriptor)
