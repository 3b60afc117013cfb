"""The secret that MLflow signs with, and how it is changed without losing a delivery.

`<home>/webhook-secrets.json` (mode 0600) once it was rotated; before that, the one in the credentials. After
a rotation both the new and the old secret are believed for a while, because MLflow goes on using the old one
for deliveries it has begun, and for as long as it caches its list of webhooks.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from model_store.errors import Permanent
from serving.credentials import credentials_of, write_secret
from serving.home import Home

# MLflow caches its webhooks for a minute and tries a delivery for a few more.
OVERLAP = timedelta(minutes=15)


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """`previous` is believed until `previous_until`, when it is that of a rotation."""

    current: str
    previous: str | None = None
    previous_until: datetime | None = None

    def valid(self, *, now: datetime) -> tuple[str, ...]:
        """Those that a delivery may be signed with."""
        if self.previous and self.previous_until and now < self.previous_until:
            return (self.current, self.previous)
        return (self.current,)


def secrets_of(home: Home) -> Secrets:
    """This installation's. Raises `Permanent` when the file is there but not readable."""
    path = path_of(home)
    try:
        saved = json.loads(path.read_text())
        until = saved["previous_until"]
        return Secrets(saved["current"], saved["previous"], until and datetime.fromisoformat(until))
    except FileNotFoundError:
        return Secrets(credentials_of(home).webhook_secret)
    except (ValueError, KeyError, TypeError) as error:
        raise Permanent(
            f"{path} is not readable: {error!r}",
            remedy="move it away and run `slipway webhooks rotate`, which makes a new one",
        ) from error


def rotate(
    home: Home,
    *,
    now: datetime,
    random_bytes: Callable[[int], bytes] = os.urandom,
    overlap: timedelta = OVERLAP,
) -> Secrets:
    """Make a new secret; the present one stays valid for `overlap`. Whoever signs has to be told."""
    made = base64.urlsafe_b64encode(random_bytes(32)).decode().rstrip("=")
    secrets = Secrets(made, secrets_of(home).current, now + overlap)
    saved = {
        "current": secrets.current,
        "previous": secrets.previous,
        "previous_until": secrets.previous_until and secrets.previous_until.isoformat(),
    }
    write_secret(path_of(home), json.dumps(saved))
    return secrets


def path_of(home: Home) -> Path:
    return home.root / "webhook-secrets.json"
