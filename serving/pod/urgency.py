"""How soon a request must be answered, and before whom: read from headers or request parameters.

Headers win over parameters, because a gateway can set them. Triton's parameters are understood as Triton
means them: `priority` 0 is the model's own, 1 the highest, larger is lower; `timeout` is in microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from model_store.engines.errors import Refused

PRIORITY_HEADER = b"x-slipway-priority"
TIMEOUT_HEADER = b"x-slipway-timeout-ms"
ENVOY_TIMEOUT_HEADER = b"x-envoy-expected-rq-timeout-ms"


class Priority(IntEnum):
    """Lower goes first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


_BY_NAME = {b"high": Priority.HIGH, b"normal": Priority.NORMAL, b"low": Priority.LOW}


def read_priority(headers: Mapping[bytes, bytes], parameters: Mapping[str, Any]) -> Priority:
    """Raises `Refused` on a word or number that means nothing."""
    word = headers.get(PRIORITY_HEADER)
    value = parameters.get("priority") if word is None else word.lower()
    if value is None:
        return Priority.NORMAL
    if isinstance(value, str):
        value = value.lower().encode()
    if isinstance(value, bytes) and value in _BY_NAME:
        return _BY_NAME[value]
    if type(value) is int and value >= 0:
        return Priority.NORMAL if value == 0 else Priority(min(value, 3) - 1)
    raise Refused(f"priority {str(value)[:40]!r} is not known", remedy="send high, normal, low, or 1, 2, 3")


def read_timeout(headers: Mapping[bytes, bytes], parameters: Mapping[str, Any], default: float) -> float:
    """Seconds from arrival after which nobody wants the answer; never more than `default`, the model's own.

    Raises `Refused` on what is not a number.
    """
    found = [default]
    for name in (TIMEOUT_HEADER, ENVOY_TIMEOUT_HEADER):
        value = headers.get(name)
        if value is not None:
            found.append(_milliseconds(value) / 1000)
    microseconds = parameters.get("timeout", 0)
    if type(microseconds) is not int or microseconds < 0:
        raise Refused("parameter `timeout` is not a whole number", remedy="send microseconds, as Triton does")
    if microseconds:
        found.append(microseconds / 1e6)
    return min(found)


def _milliseconds(value: bytes) -> float:
    if not value.isdigit() or len(value) > 9:
        raise Refused(f"timeout {value[:40]!r} is not a whole number", remedy="send milliseconds")
    # Envoy says 0 when its route has no timeout.
    return int(value) or float("inf")
