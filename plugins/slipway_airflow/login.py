"""Airflow's simple login with Slipway's roles: who releases does not approve, and the other way round.

`[core] auth_manager` of the local stack. Airflow's own roles (viewer, user, op, admin) mean what they mean in
Airflow; `user` may both release and approve. The two roles of ours part that, in Airflow's own pages too.
"""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.configuration import AIRFLOW_CONFIG, conf

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
    from fastapi import FastAPI, Request, Response
    from starlette.middleware.base import RequestResponseEndpoint

RELEASER, APPROVER = "releaser", "approver"
# What they are apart from releasing and approving.
_AIRFLOWS = {RELEASER: "user", APPROVER: "viewer"}


class SlipwayLogin(SimpleAuthManager):
    """SimpleAuthManager, and the roles `releaser` and `approver`.

    A login counts for as long as its account exists, with the role that it has now. Accounts are those that
    airflow.cfg names now, not those of when the API server began: nothing is restarted for one.
    """

    def get_fastapi_app(self) -> FastAPI | None:
        app = super().get_fastapi_app()
        if app is not None:
            app.middleware("http")(_knowing_accounts)
        return app

    def deserialize_user(self, token: dict[str, Any]) -> SimpleAuthManagerUser:
        """Who the token was made for. Raises ValueError, which Airflow takes for an invalid token."""
        _ACCOUNTS.read()
        user = super().deserialize_user(token)
        for known in self.get_users():
            if known.username == user.username:
                return SimpleAuthManagerUser(username=known.username, role=known.role, teams=known.teams)
        raise ValueError("there is no such account any more")

    def is_authorized_dag(
        self,
        *,
        method: ResourceMethod,
        user: SimpleAuthManagerUser,
        access_entity: DagAccessEntity | None = None,
        details: DagDetails | None = None,
    ) -> bool:
        """An approver may answer requests for approval and change nothing else; a releaser the reverse."""
        answers = access_entity is DagAccessEntity.HITL_DETAIL and method != "GET"
        if answers and user.role in _AIRFLOWS:
            return user.role == APPROVER
        return bool(
            super().is_authorized_dag(method=method, user=user, access_entity=access_entity, details=details)
        )

    @staticmethod
    def _is_authorized(*, user: SimpleAuthManagerUser, **asked: Any) -> bool:
        known = _AIRFLOWS.get(user.role or "")
        as_airflow = (
            SimpleAuthManagerUser(username=user.username, role=known, teams=user.teams) if known else user
        )
        return bool(SimpleAuthManager._is_authorized(user=as_airflow, **asked))

    @staticmethod
    def _is_admin(user: SimpleAuthManagerUser) -> bool:
        return user.role not in _AIRFLOWS and bool(SimpleAuthManager._is_admin(user))


class Accounts:
    """Who has one and as what, of a file that may change (`slipway users` writes it)."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, int] | None = None

    def read(self) -> None:
        """Costs a look at the file's time where nothing changed."""
        try:
            stat = self._file.stat()
            if (seen := (stat.st_mtime_ns, stat.st_ino)) == self._seen:
                return
            written = configparser.RawConfigParser()
            written.read_string(self._file.read_text())
        except (OSError, configparser.Error):
            return
        self._seen = seen
        if named := written.get("core", _USERS, fallback=None):
            conf.set("core", _USERS, named)


_USERS = "simple_auth_manager_users"
_ACCOUNTS = Accounts(Path(AIRFLOW_CONFIG))


async def _knowing_accounts(request: Request, call_next: RequestResponseEndpoint) -> Response:
    _ACCOUNTS.read()
    return await call_next(request)
