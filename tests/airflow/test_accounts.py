"""An account that is made or ended while Airflow's API server runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from slipway_airflow import login

from tests.airflow.people import OUR_LOGIN, api_server

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]
USERS = "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"


def test_an_account_counts_from_when_it_is_made_until_it_is_ended(
    tmp_path: Path, in_database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "airflow.cfg"

    def accounts(**roles: str) -> None:
        """As `slipway users` writes them."""
        named = ",".join(f"{name}:{role}" for name, role in roles.items())
        written.write_text(f"[core]\nsimple_auth_manager_users = {named}\n")
        (tmp_path / "passwords.json").write_text(json.dumps({name: f"word of {name}" for name in roles}))

    monkeypatch.setattr(login, "_ACCOUNTS", login.Accounts(written))
    with api_server(tmp_path, {"ada": "admin"}, OUR_LOGIN) as server, pytest.MonkeyPatch.context() as patch:
        # An environment that names accounts goes before the file.
        patch.delenv(USERS)
        accounts(ada="admin")
        shown = {"username": "rolf", "password": "word of rolf"}
        assert server.client.post("/auth/token", json=shown).status_code == 401
        accounts(ada="admin", rolf="releaser")
        made = server.client.post("/auth/token", json=shown)
        assert made.status_code == 201
        headers = {"Authorization": f"Bearer {made.json()['access_token']}"}
        assert server.client.get("/api/v2/dags", headers=headers).status_code == 200
        accounts(ada="admin")
        assert server.client.get("/api/v2/dags", headers=headers).status_code in (401, 403)
        assert server.client.post("/auth/token", json=shown).status_code == 401
