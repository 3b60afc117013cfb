"""Optional API keys: who may ask, and how much. Keys are random and kept only as SHA-256 digests.

`python -m serving.runtime.keys FILE NAME [--rate N --burst N]` makes a key, prints it once, and adds its
digest to FILE, which pods started with `--api-keys FILE` read again when it changes. A fast hash is right
here: the keys have 256 random bits, so there is nothing to guess.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store.errors import Permanent
from serving.runtime.errors import Refused, Unavailable

_HEADERS = (b"x-api-key", b"authorization")
_BEARER = b"bearer "


@dataclass(slots=True)
class Client:
    """A token bucket: `rate` requests a second, `burst` at once. 0: no limit."""

    name: str
    rate: float
    burst: float
    tokens: float
    at: float = 0.0
    refused: int = 0

    def takes(self, now: float) -> bool:
        """Take one token if there is one."""
        if not self.rate:
            return True
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            self.refused += 1
            return False
        self.tokens -= 1
        return True

    @property
    def wait_seconds(self) -> float:
        """After a refusal: until there is a token again."""
        return (1 - self.tokens) / self.rate


class KeyRing:
    """The clients of one file. Raises `Permanent` when the file cannot be read at start."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self._modified = -1.0
        self.clients: dict[bytes, Client] = {}
        self.reload()

    def reload(self) -> None:
        """Read the file again if it changed; clients keep their buckets.

        Raises `Permanent`, and changes nothing then, when it cannot be read.
        """
        try:
            modified = self._path.stat().st_mtime
            if modified == self._modified:
                return
        except OSError as error:
            raise _no_keys(self._path, error.strerror or str(error)) from error
        found = dict(_row(self._path, number, row) for number, row in enumerate(_rows(self._path), start=1))
        for digest, client in found.items():
            known = self.clients.get(digest)
            if known is not None:
                client.tokens, client.at = min(known.tokens, client.burst), known.at
        self.clients, self._modified = found, modified

    def admit(self, headers: Mapping[bytes, bytes], *, takes_token: bool) -> None:
        """Raises `Refused` (401) without a known key, `Unavailable` (429) over the client's rate."""
        client = self.clients.get(hashlib.sha256(_key(headers)).digest())
        if client is None:
            raise Refused("no known API key", remedy="send it as `authorization: Bearer KEY`", status=401)
        if takes_token and not client.takes(self._clock()):
            raise Unavailable(
                f"{client.name} is over its {client.rate:g} requests a second",
                remedy="slow down",
                delay_seconds=client.wait_seconds,
                status=429,
            )


def _key(headers: Mapping[bytes, bytes]) -> bytes:
    key = headers.get(b"x-api-key")
    if key is not None:
        return key
    value = headers.get(b"authorization", b"")
    return value[len(_BEARER) :].strip() if value[: len(_BEARER)].lower() == _BEARER else b""


def _rows(path: Path) -> list[Any]:
    """The clients in the file, unread. Raises `Permanent` saying what is wrong with it."""
    try:
        saved = json.loads(path.read_bytes())
    except OSError as error:
        raise _no_keys(path, error.strerror or str(error)) from error
    except json.JSONDecodeError as error:
        raise _no_keys(path, f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    except ValueError as error:
        raise _no_keys(path, "its bytes are no text") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("clients"), list):
        raise _no_keys(path, 'it has to be an object with a list named "clients"')
    return list(saved["clients"])


def _row(path: Path, number: int, row: Any) -> tuple[bytes, Client]:
    """One client with the digest of its key. `number` counts from 1."""
    try:
        digest, client = bytes.fromhex(row["sha256"]), _client(row)
    except KeyError as error:
        raise _no_keys(path, f"client {number} has no {error}") from error
    except (ValueError, TypeError) as error:
        raise _no_keys(path, f"client {number}: {error}") from error
    if len(digest) != hashlib.sha256().digest_size:
        raise _no_keys(path, f"client {number}: its sha256 has {2 * len(digest)} hex digits and not 64")
    return digest, client


def _no_keys(path: Path, why: str) -> Permanent:
    return Permanent(
        f"{path} is no file of API keys: {why}",
        remedy="mend it, or move it away and make keys anew: python -m serving.runtime.keys FILE NAME",
    )


def _client(row: Mapping[str, object]) -> Client:
    rate, name = float(str(row.get("rate", 0))), str(row["name"])
    burst = float(str(row.get("burst", 0))) or max(1.0, rate)
    if not (rate >= 0 and burst > 0 and math.isfinite(rate + burst)):
        raise ValueError(f"rate {rate:g} and burst {burst:g} are no limits: write numbers from 0 up")
    return Client(name, rate, burst, tokens=burst)


def add_key(path: Path, name: str, *, rate: float = 0, burst: float = 0) -> str:
    """Make a key for `name` and add its digest to the file. The key is returned and kept nowhere.

    Raises `Permanent`, and leaves the file as it is, when it cannot be read.
    """
    key = secrets.token_urlsafe(32)
    rows = _rows(path) if path.exists() else []
    digest = hashlib.sha256(key.encode()).hexdigest()
    found = {"clients": [*rows, {"name": name, "sha256": digest, "rate": rate, "burst": burst}]}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.chmod(0o600)
    partial.rename(path)
    return key


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.runtime.keys", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("name")
    parser.add_argument("--rate", type=float, default=0, help="requests a second; 0: no limit")
    parser.add_argument("--burst", type=float, default=0, help="at once; default: one second's worth")
    found = parser.parse_args(arguments)
    try:
        key = add_key(found.file, found.name, rate=found.rate, burst=found.burst)
    except Permanent as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{key}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
