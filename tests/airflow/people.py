"""Airflow's whole API server in this process, with people who log in as they do in a browser or a pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

ROLES = {"vera": "viewer", "rita": "user", "otto": "op", "ada": "admin"}
BASE = "http://localhost:8080"


@contextmanager
def api_server(folder: Path, roles: dict[str, str] = ROLES, manager: str = "") -> Iterator[ApiServer]:
    """Airflow's app with these users (name -> role); their passwords are only in `folder`."""
    from airflow.api_fastapi import app as airflow_app

    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps({name: f"secret of {name}" for name in roles}))
    settings = {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(
            f"{name}:{role}" for name, role in roles.items()
        ),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__API__SECRET_KEY": "a key of these tests",
        "AIRFLOW__API_AUTH__JWT_SECRET": "another key of these tests, which is long enough for its purpose "
        * 2,
    }
    if manager:
        settings["AIRFLOW__CORE__AUTH_MANAGER"] = manager
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
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

    def of(self, name: str | None) -> TestClient:
        """With a bearer token; without any login for None."""
        headers = {"Authorization": f"Bearer {self.token(name)}"} if name else {}
        return TestClient(self.app, base_url=BASE, headers=headers, raise_server_exceptions=False)

    def browser_of(self, name: str) -> TestClient:
        """With the cookie of Airflow's login page."""
        return TestClient(
            self.app, base_url=BASE, cookies={"_token": self.token(name)}, follow_redirects=False
        )

    def token(self, name: str) -> str:
        if name not in self._tokens:
            account = {"username": name, "password": self._passwords[name]}
            self._tokens[name] = self.client.post("/auth/token", json=account).json()["access_token"]
        return self._tokens[name]
