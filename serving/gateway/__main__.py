"""`python -m serving.gateway`: becomes an Envoy that controllers elsewhere tell everything.

`python -m serving.gateway drain` is asked before such an Envoy is told to end (docs/kubernetes.md).
"""

from __future__ import annotations

import os
import sys
import time
from typing import NoReturn

import orjson

from model_store.errors import Permanent, SlipwayError
from serving.credentials import write_secret
from serving.gateway.bootstrap import ADDRESS, ID, bootstrap, command
from serving.gateway.delivery.ads.source import SERVERS, TOKEN, Ads
from serving.gateway.paths import bootstrap_file
from serving.home import ADS, DELIVERY, Home
from serving.sockets import UnixConnection, make_private_folder

# Together longer than Envoy takes to close what it keeps open (`--drain-time-s`), and what answers last.
_LEAST_SECONDS, _MOST_SECONDS = 6.0, 20.0
_OPEN = "http.gateway.downstream_cx_active"
_NEEDED = (ID, ADDRESS, SERVERS, TOKEN)


def become(home: Home) -> NoReturn:
    """Raises `Permanent` when something is not said that an Envoy has to know."""
    if missing := [name for name in _NEEDED if not os.environ.get(name)]:
        raise Permanent(
            f"{', '.join(missing)} is not said",
            remedy="docs/kubernetes.md lists what a gateway's pod is told",
        )
    # It may hold what Envoy shows to be let in.
    made = orjson.dumps(bootstrap(home, Ads(home), os.environ))
    write_secret(bootstrap_file(home), made.decode())
    make_private_folder(home.envoy_admin)
    started = command(home)
    os.execv(started[0], started)


def drain(home: Home, *, least: float = _LEAST_SECONDS, most: float = _MOST_SECONDS) -> None:
    """Have callers go elsewhere: connections are closed after their next answer, and new ones still taken
    for a while, until nobody is left."""
    _admin(home, "POST", "/drain_listeners?graceful&skip_exit")
    began = time.monotonic()
    while (waited := time.monotonic() - began) < most:
        if waited >= least and _connections(home) == 0:
            return
        time.sleep(0.5)


def _connections(home: Home) -> int:
    counted = orjson.loads(_admin(home, "GET", f"/stats?format=json&filter=^{_OPEN}$"))
    return sum(int(each.get("value", 0)) for each in counted["stats"])


def _admin(home: Home, method: str, path: str) -> bytes:
    connection = UnixConnection(home.envoy_admin, timeout=5)
    try:
        connection.request(method, path)
        return connection.getresponse().read()
    finally:
        connection.close()


def main(arguments: list[str]) -> None:
    home = Home.locate({**os.environ, DELIVERY: ADS})
    try:
        drain(home) if arguments == ["drain"] else become(home)
    except SlipwayError as problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    main(sys.argv[1:])
