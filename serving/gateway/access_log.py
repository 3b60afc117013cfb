"""Keeps the gateway's access log from filling the disk: Envoy writes it and never turns it over."""

from __future__ import annotations

from pathlib import Path

from serving.home import Home
from serving.sockets import UnixConnection

MOST_BYTES = 50 * 1024 * 1024
KEPT = 2


def path(home: Home) -> Path:
    return home.logs / "gateway.jsonl"


def turn_over(home: Home, *, most_bytes: int = MOST_BYTES) -> bool:
    """Begin a new file once this one has `most_bytes`, and keep `KEPT` old ones; whether it was done.

    Envoy goes on writing to the renamed file until it is told to open it anew, so no line is lost. Raises
    `OSError` when Envoy does not answer: the next look tells it again.
    """
    current = path(home)
    is_untold = not current.exists() and _older(current, 1).exists()
    if not is_untold:
        if not current.exists() or current.stat().st_size < most_bytes:
            return False
        for number in range(KEPT, 0, -1):
            source = _older(current, number - 1) if number > 1 else current
            if source.exists():
                source.rename(_older(current, number))
    _reopen(home)
    return True


def _older(current: Path, number: int) -> Path:
    return current.with_name(f"{current.name}.{number}")


def _reopen(home: Home) -> None:
    connection = UnixConnection(home.envoy_admin, timeout=2)
    try:
        connection.request("POST", "/reopen_logs")
        connection.getresponse().read()
    finally:
        connection.close()
