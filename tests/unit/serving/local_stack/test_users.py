"""Accounts of one installation."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from model_store.errors import Permanent
from serving.credentials import credentials_of
from serving.home import Home, Ports
from serving.local_stack import airflow_config, users


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", Ports())


def test_a_new_user_gets_a_password_nobody_else_has(home: Home) -> None:
    rita, rolf = users.add(home, "rita", "releaser"), users.add(home, "rolf", "approver")
    assert len({rita.password, rolf.password}) == 2
    assert len(rita.password) >= 12
    assert users.users_of(home) == [rita, rolf]


def test_a_user_added_again_has_the_new_role_only(home: Home) -> None:
    users.add(home, "rita", "viewer", "an old one")
    again = users.add(home, "rita", "op", "a new one")
    assert users.users_of(home) == [again]


def test_a_removed_user_is_gone_and_an_unknown_one_is_told(home: Home) -> None:
    users.add(home, "rita", "viewer")
    users.remove(home, "rita")
    assert users.users_of(home) == []
    with pytest.raises(Permanent, match="there is no user 'rita'"):
        users.remove(home, "rita")


@pytest.mark.parametrize("name", ["", "a:admin", "a,b", "a|b", "../x", "admin", "<b>", "a" * 65, "a b", "é"])
def test_a_name_that_would_say_something_else_in_airflows_files_is_refused(home: Home, name: str) -> None:
    with pytest.raises(Permanent, match="cannot be a user's name"):
        users.add(home, name, "viewer")


def test_unknown_roles_list_the_known_and_short_passwords_are_refused(home: Home) -> None:
    with pytest.raises(Permanent) as unknown:
        users.add(home, "rita", "root")
    assert "viewer, releaser, approver" in unknown.value.remedy
    with pytest.raises(Permanent, match="shorter than 8"):
        users.add(home, "rita", "viewer", "short")
    assert users.users_of(home) == []


def test_airflow_knows_every_user_and_only_the_owner_reads_passwords(home: Home) -> None:
    credentials = credentials_of(home)
    rita = users.add(home, "rita", "releaser")
    airflow_config.write(home, credentials)
    configured = airflow_config.settings(home, credentials)["core"]
    assert configured["simple_auth_manager_users"] == "admin:admin,rita:releaser"
    passwords = json.loads((home.airflow / "passwords.json").read_text())
    assert passwords == {"admin": credentials.airflow_password, "rita": rita.password}
    assert stat.S_IMODE((home.root / "users.json").stat().st_mode) == 0o600
    assert rita.password not in (home.airflow / "airflow.cfg").read_text()
    assert rita.password not in repr(rita)
