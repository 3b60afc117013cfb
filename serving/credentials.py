"""Keys and the login of one installation: made once, readable by their owner only."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from model_store.durable import create_secret
from model_store.errors import Permanent
from model_store.unwritable import naming
from serving.home import Home

CONTROLLER_TOKEN = "SLIPWAY_CONTROLLER_TOKEN"  # noqa: S105 - the variable's name


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """`webhook_secret` signs what MLflow tells Airflow; `*_fernet_key` encrypt what each keeps at rest."""

    airflow_user: str
    airflow_password: str
    airflow_fernet_key: str
    airflow_secret_key: str
    airflow_jwt_secret: str
    mlflow_secret_key: str
    webhook_secret: str
    webhook_fernet_key: str


def credentials_of(home: Home, random_bytes: Callable[[int], bytes] = os.urandom) -> Credentials:
    """This installation's credentials, made on first use. Two makers at once agree on one file.

    Raises `Permanent` when the file is there but not readable as credentials.
    """
    if not home.credentials.exists():
        _make(home, random_bytes)
    try:
        saved = json.loads(home.credentials.read_text())
        return Credentials(**{field.name: str(saved[field.name]) for field in fields(Credentials)})
    except (ValueError, KeyError, TypeError) as error:
        raise Permanent(
            f"{home.credentials} is not readable: {error!r}",
            remedy=f"Stop the stack, move {home.credentials} away, and start it again: new ones are made.",
        ) from error


def _make(home: Home, random_bytes: Callable[[int], bytes]) -> None:
    def token(size: int) -> str:
        return base64.urlsafe_b64encode(random_bytes(size)).decode().rstrip("=")

    def fernet_key() -> str:
        return base64.urlsafe_b64encode(random_bytes(32)).decode()

    made = Credentials(
        airflow_user="admin",
        airflow_password=token(12),
        airflow_fernet_key=fernet_key(),
        airflow_secret_key=token(32),
        airflow_jwt_secret=token(64),
        mlflow_secret_key=token(32),
        webhook_secret=token(32),
        webhook_fernet_key=fernet_key(),
    )
    create_secret(home.credentials, json.dumps(asdict(made), indent=1).encode())


def controller_token(home: Home, random_bytes: Callable[[int], bytes] = os.urandom) -> str:
    """What this installation's controller is asked with, made on first use, by whoever comes first.

    Where the controller is on another machine, both are told it by `SLIPWAY_CONTROLLER_TOKEN`.
    """
    if given := os.environ.get(CONTROLLER_TOKEN, "").strip():
        return given
    if not home.controller_token.exists():
        create_secret(home.controller_token, base64.urlsafe_b64encode(random_bytes(32)).rstrip(b"="))
    token = home.controller_token.read_text().strip()
    if not token:
        raise Permanent(
            f"{home.controller_token} is empty",
            remedy="Delete it, and start the controller again: it makes a new one.",
        )
    return token


def write_secret(path: Path, text: str) -> None:
    """Replace a file that only its owner may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with naming(path), os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
