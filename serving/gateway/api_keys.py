"""The clients that have API keys: `<home>/api-keys.json`, readable by its owner only.

Envoy compares keys as they are, so they are kept as they are (docs/decisions/0106). A client may have
several: a new key is made, its callers take it up, and then the older ones are removed.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

from model_store.errors import Permanent
from model_store.locks import locked
from serving.credentials import write_secret
from serving.home import Home
from serving.types import RateLimit

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True, repr=False)
class Client:
    """`keys`, oldest first. `limit` is for what they ask of all models together; None: no limit."""

    name: str
    keys: tuple[str, ...]
    limit: RateLimit | None = None


class UnknownClient(Permanent):
    """No client has this name."""


def clients_of(home: Home) -> list[Client]:
    """By name. Raises `Permanent` when the file is there but not readable as clients."""
    try:
        saved = json.loads(home.api_keys.read_bytes())
        return [_parsed(row) for row in saved["clients"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as problem:
        raise _unreadable(home, str(problem) or repr(problem)) from problem


def add_key(home: Home, name: str, limit: RateLimit | None = None) -> str:
    """Make a key for `name`, beside those it has, and return it. `limit` replaces the one before, if given.

    Raises `Permanent` for what is no name or limit.
    """
    if not _NAME.fullmatch(name):
        raise Permanent(f"{name!r} is no client's name", remedy="use letters, digits, '_', '-' and '.'")
    key = secrets.token_urlsafe(32)

    def with_key(clients: dict[str, Client]) -> None:
        before = clients.get(name, Client(name, ()))
        clients[name] = Client(name, (*before.keys, key), limit or before.limit)

    _change(home, with_key)
    return key


def remove(home: Home, name: str, *, but_newest: bool = False) -> int:
    """Remove a client, or only its older keys; returns how many. Raises `UnknownClient`."""
    removed = 0

    def without(clients: dict[str, Client]) -> None:
        nonlocal removed
        client = clients.pop(name, None)
        if client is None:
            known = ", ".join(clients) or "none"
            raise UnknownClient(f"no client is called {name!r}", remedy=f"there are: {known}")
        kept = client.keys[-1:] if but_newest else ()
        removed = len(client.keys) - len(kept)
        if kept:
            clients[name] = replace(client, keys=kept)

    _change(home, without)
    return removed


def limit_of(rate: float, burst: float) -> RateLimit | None:
    """Requests a second, and at once (0: one second's worth); None where `rate` is 0. Raises `Permanent`."""
    if not (rate >= 0 and burst >= 0 and math.isfinite(rate + burst)):
        raise Permanent(f"rate {rate:g} and burst {burst:g} are no limits", remedy="give numbers from 0 up")
    return RateLimit(rate, int(burst) or max(1, round(rate))) if rate else None


def held(home: Home) -> AbstractContextManager[None]:
    """While it is held, nobody else changes the clients."""
    return locked(home.root / ".api-keys.lock")


def _change(home: Home, change: Callable[[dict[str, Client]], None]) -> None:
    with held(home):
        clients = {client.name: client for client in clients_of(home)}
        change(clients)
        rows = [asdict(clients[name]) for name in sorted(clients)]
        write_secret(home.api_keys, json.dumps({"clients": rows}, indent=1) + "\n")


def _parsed(row: dict[str, Any]) -> Client:
    if "sha256" in row:
        raise ValueError(f"{row['name']} has only the digest of a key, as an earlier Slipway kept it")
    limit = row["limit"] and RateLimit(float(row["limit"]["per_second"]), int(row["limit"]["burst"]))
    return Client(str(row["name"]), tuple(map(str, row["keys"])), limit)


def _unreadable(home: Home, why: str) -> Permanent:
    return Permanent(
        f"{home.api_keys} is no file of API keys: {why}",
        remedy="move it away, make a key for each client with `slipway keys add NAME`, and hand them out",
    )
