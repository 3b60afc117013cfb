"""Which of MLflow's deliveries are believed: those that come from our MLflow, and from now, and were not
taken already.

MLflow 3.17 (`mlflow.webhooks.delivery`) sends `X-MLflow-Signature: v1,<base64 of HMAC-SHA256>` over
`"{delivery id}.{timestamp}.{body}"`. Id and timestamp are only taken in their exact forms, so that no other
split of the signed text can pass for it.

There is one row for each in the ledger: of several that get the same delivery, also in another process, on
another machine or after a restart, exactly one takes it. It says nothing until somebody notes what came of
the delivery. The controller forgets it days after it is believed no more.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from model_store.errors import Permanent
from serving.ledger.base import Rows, StaleGeneration
from serving.ledger.rows import DeliveryRow

WINDOW = timedelta(minutes=5)
MOST_BYTES = 1_000_000

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SECONDS = re.compile(r"[0-9]{1,11}")


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which delivery this is, and when MLflow made it. Both are signed."""

    delivery_id: str
    at: datetime


class Unsigned(Permanent):
    """Nothing shows that this delivery comes from our MLflow, now."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            problem,
            remedy="register the webhook with `slipway webhooks sync`; set the clocks of both machines",
        )


def stamp_of(headers: Mapping[str, str], *, now: datetime) -> Stamp:
    """The delivery's id and time, as claimed. Raises `Unsigned` when one is missing or out of the window.

    Cheap, so that a body need not even be read for nothing. `headers` has lower-case names.
    """
    if not headers.get("x-mlflow-signature"):
        raise Unsigned("the delivery is not signed")
    delivery_id, seconds = headers.get("x-mlflow-delivery-id", ""), headers.get("x-mlflow-timestamp", "")
    if not _ID.fullmatch(delivery_id) or not _SECONDS.fullmatch(seconds):
        raise Unsigned("the delivery has no id or no timestamp as MLflow writes them")
    at = datetime.fromtimestamp(int(seconds), UTC)
    if abs(now - at) > WINDOW:
        where = "after" if at > now else "before"
        raise Unsigned(
            f"the delivery was made {abs(now - at).total_seconds():.0f} s {where} now, "
            f"and at most {WINDOW.total_seconds():.0f} s are believed"
        )
    return Stamp(delivery_id, at)


def require_signed(headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> None:
    """Raises `Unsigned` unless one of the secrets made this signature for this id, time and body."""
    signed = f"{headers['x-mlflow-delivery-id']}.{headers['x-mlflow-timestamp']}.".encode() + body
    given = _digest(headers["x-mlflow-signature"])
    # All of them are tried, whichever fits: how long it takes tells nothing.
    matches = [hmac.compare_digest(given, _hmac(secret, signed)) for secret in secrets]
    if not any(matches):
        raise Unsigned("the delivery was signed with another secret, or changed on its way")


def sign(secret: str, delivery_id: str, seconds: int, body: bytes) -> str:
    """The header's value as MLflow makes it."""
    signed = f"{delivery_id}.{seconds}.".encode() + body
    return "v1," + base64.b64encode(_hmac(secret, signed)).decode()


def _hmac(secret: str, signed: bytes) -> bytes:
    return hmac.new(secret.encode(), signed, hashlib.sha256).digest()


def _digest(header: str) -> bytes:
    version, _, digest = header.partition(",")
    try:
        return base64.b64decode(digest, validate=True) if version == "v1" else b""
    except (binascii.Error, ValueError):
        return b""


SOURCE = "mlflow"


class Deliveries:
    """MLflow's, among `rows`."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def take(self, stamp: Stamp) -> bool:
        """Whether this is the first time that this delivery comes."""
        return self._rows.create(DeliveryRow(id=_id(stamp), source=SOURCE, at=stamp.at))

    def note(self, stamp: Stamp, words: str) -> None:
        """Write down what came of a delivery that was taken; nothing if it was forgotten since."""
        for taken in self._rows.find(DeliveryRow, id=_id(stamp)):
            with suppress(StaleGeneration):
                self._rows.save(replace(taken, words=words))


def _id(stamp: Stamp) -> str:
    return f"{SOURCE}/{stamp.delivery_id}"
