"""People who may log in to this installation's Airflow, besides `admin`.

`<home>/users.json` (readable by its owner only) has their roles and passwords, from which Airflow's own files
are written. An installation for more than one team takes another auth manager of Airflow: docs/api.md.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from model_store.durable import write_file
from model_store.errors import Permanent
from serving.home import Home

# What each may do is in `slipway_airflow.authorization`.
ROLES = ("viewer", "releaser", "approver", "user", "op", "admin")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SHORTEST_PASSWORD = 8


@dataclass(frozen=True, slots=True, repr=False)
class User:
    """One account."""

    name: str
    role: str
    password: str


def users_of(home: Home) -> list[User]:
    """By name. Raises `Permanent` when the file is not readable as what it should be."""
    path = home.root / "users.json"
    if not path.exists():
        return []
    try:
        return [User(**one) for one in json.loads(path.read_text())]
    except (ValueError, KeyError, TypeError) as error:
        raise Permanent(
            f"{path} is not readable: {error!r}", remedy="move it away, and add the users again"
        ) from error


def add(home: Home, name: str, role: str, password: str | None = None) -> User:
    """A new account, or another role or password for one that exists. No password: one is made.

    Raises `Permanent` for a name, role or password that cannot be one.
    """
    _refuse_bad(name, role, password)
    user = User(name, role, password or secrets.token_urlsafe(12))
    with _exclusive(home):
        others = [one for one in users_of(home) if one.name != name]
        _write(home, [*others, user])
    return user


def remove(home: Home, name: str) -> None:
    """Raises `Permanent` listing who there is when nobody has this name."""
    with _exclusive(home):
        users = users_of(home)
        if name not in [user.name for user in users]:
            known = ", ".join(user.name for user in users) or "none besides admin"
            raise Permanent(f"there is no user {name!r} to remove", remedy=f"users: {known}")
        _write(home, [user for user in users if user.name != name])


def _refuse_bad(name: str, role: str, password: str | None) -> None:
    if not _NAME.fullmatch(name) or name == "admin":
        raise Permanent(
            f"{name[:80]!r} cannot be a user's name",
            remedy="1-64 letters, digits, '.', '_', '@', '-', beginning with a letter or digit; not admin",
        )
    if role not in ROLES:
        raise Permanent(f"there is no role {role[:40]!r}", remedy=f"roles: {', '.join(ROLES)}")
    if password is not None and len(password) < _SHORTEST_PASSWORD:
        raise Permanent(
            f"the password is shorter than {_SHORTEST_PASSWORD} characters",
            remedy="give a longer one, or none: then one is made",
        )


def _write(home: Home, users: list[User]) -> None:
    content = [asdict(user) for user in sorted(users, key=lambda user: user.name)]
    # What `write_file` makes beside it is readable by its maker only, too.
    before = os.umask(0o077)
    try:
        write_file(home.root / "users.json", json.dumps(content, indent=1).encode())
    finally:
        os.umask(before)


@contextmanager
def _exclusive(home: Home) -> Iterator[None]:
    home.root.mkdir(parents=True, exist_ok=True)
    with (home.root / ".users.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
