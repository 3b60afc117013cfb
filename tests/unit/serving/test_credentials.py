from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from model_store.errors import Permanent
from serving.credentials import credentials_of
from serving.home import Home, Ports


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", Ports())


def test_they_are_made_once_and_only_their_owner_may_read_them(home: Home) -> None:
    made = credentials_of(home)
    assert credentials_of(home) == made
    assert stat.S_IMODE(home.credentials.stat().st_mode) == 0o600
    assert [path.name for path in home.root.iterdir()] == ["credentials.json"]


def test_two_installations_share_nothing(home: Home, tmp_path: Path) -> None:
    one, other = credentials_of(home), credentials_of(Home(tmp_path / "other", Ports()))
    assert one.airflow_password != other.airflow_password
    assert one.airflow_jwt_secret != other.airflow_jwt_secret


def test_two_makers_at_once_agree_on_one_set(home: Home) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: credentials_of(home), range(8)))
    assert set(made) == {credentials_of(home)}


def test_the_fernet_keys_are_keys(home: Home) -> None:
    made = credentials_of(home)
    for key in (made.airflow_fernet_key, made.webhook_fernet_key):
        assert Fernet(key).decrypt(Fernet(key).encrypt(b"kept")) == b"kept"


def test_they_do_not_show_when_printed(home: Home) -> None:
    made = credentials_of(home)
    assert made.airflow_password not in repr(made)


@pytest.mark.parametrize("content", ["", "{", json.dumps({"airflow_user": "admin"}), "[]"])
def test_an_unreadable_file_is_never_replaced_but_explained(home: Home, content: str) -> None:
    home.root.mkdir()
    home.credentials.write_text(content)
    with pytest.raises(Permanent, match="new ones are made"):
        credentials_of(home)
    assert home.credentials.read_text() == content
