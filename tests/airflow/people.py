"""Airflow's whole API server in this process, with people who log in as in a browser or a pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

# Airflow's own roles, and those of `slipway_airflow.login`.
SIMPLE = {"vera": "viewer", "rita": "user", "otto": "op", "ada": "admin"}
OURS = {"vera": "viewer", "rolf": "releaser", "anna": "approver", "grace": "approver", "ada": "admin"}
OUR_LOGIN = "slipway_airflow.login.SlipwayLogin"
BASE = "http://localhost:8080"


@contextmanager
def api_server(folder: Path, roles: Mapping[str, str], login: str = "") -> Iterator[ApiServer]:
    """Airflow's app with these users (name -> role); their passwords are only in `folder`."""
    from airflow.api_fastapi import app as airflow_app

    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps({name: f"word of {name}" for name in roles}))
    settings = {
        "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in roles.items()),
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "API__SECRET_KEY": "a key of these tests",
        "API__HOST": "127.0.0.1",
        "API_AUTH__JWT_SECRET": "another key of these tests, long enough for what it has to sign, really",
        **({"CORE__AUTH_MANAGER": login} if login else {}),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(f"AIRFLOW__{name}", value)
        airflow_app.purge_cached_app()
        with TestClient(airflow_app.create_app(apps="core"), base_url=BASE) as client:
            yield ApiServer(client, passwords)
        airflow_app.purge_cached_app()


class ApiServer:
    """A server; `of(name)` is the client of a pipeline, `browser_of(name)` that of a browser."""

    def __init__(self, client: TestClient, passwords: Path) -> None:
        self.client = client
        self.app: Any = client.app
        self._passwords = json.loads(passwords.read_text())
        self._tokens: dict[str, str] = {}
        self.roles: dict[str, str] = {}
        self.releases: list[str] = []

    def of(self, name: str | None) -> TestClient:
        """With a bearer token; without any login for None."""
        headers = {"Authorization": f"Bearer {self.token(name)}"} if name else {}
        return TestClient(self.app, base_url=BASE, headers=headers)

    def browser_of(self, name: str) -> TestClient:
        """With the cookie of Airflow's login page."""
        cookies = {"_token": self.token(name)}
        return TestClient(self.app, base_url=BASE, cookies=cookies, follow_redirects=False)

    def token(self, name: str) -> str:
        if name not in self._tokens:
            account = {"username": name, "password": self._passwords[name]}
            self._tokens[name] = self.client.post("/auth/token", json=account).json()["access_token"]
        return self._tokens[name]
