"""Changing the secret without losing a delivery."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model_store.errors import Permanent
from serving.credentials import credentials_of
from serving.home import Home, Ports
from serving.inbound.secrets import OVERLAP, path_of, rotate, secrets_of

NOW = datetime(2026, 11, 21, 20, 0, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, Ports())


def test_before_a_rotation_it_is_the_one_of_the_installation(home: Home) -> None:
    assert secrets_of(home).valid(now=NOW) == (credentials_of(home).webhook_secret,)


def test_after_a_rotation_both_are_valid_and_then_only_the_new_one(home: Home) -> None:
    old = secrets_of(home).current
    new = rotate(home, now=NOW).current
    assert new != old
    found = secrets_of(home)
    assert found.valid(now=NOW + OVERLAP - timedelta(seconds=1)) == (new, old)
    assert found.valid(now=NOW + OVERLAP) == (new,)


def test_of_two_rotations_the_first_secret_is_gone(home: Home) -> None:
    first = secrets_of(home).current
    second, third = rotate(home, now=NOW).current, rotate(home, now=NOW).current
    assert secrets_of(home).valid(now=NOW) == (third, second)
    assert first not in (second, third)


def test_nobody_else_may_read_it_and_it_is_not_shown(home: Home) -> None:
    made = rotate(home, now=NOW)
    assert stat.S_IMODE(path_of(home).stat().st_mode) == 0o600
    assert made.current not in repr(made)


def test_a_broken_file_is_no_reason_to_believe_anybody(home: Home) -> None:
    path_of(home).write_text("{")
    with pytest.raises(Permanent, match="not readable"):
        secrets_of(home)
