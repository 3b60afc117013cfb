"""What `slipway doctor` finds of a storage before a release does."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.errors import Permanent
from model_store.storage.memory import MemoryStorage
from model_store.storage.opening import open_storage, try_out
from serving.home import Home
from serving.local_stack.doctor import Level, _guarded, _store
from tests import s3


def test_a_storage_that_does_everything_is_left_as_it_was() -> None:
    storage = MemoryStorage()
    try_out(storage)
    assert storage.objects == {}


def test_a_server_that_ignores_conditions_is_found_out() -> None:
    class Heedless(MemoryStorage):
        def create(self, key: str, content: bytes) -> bool:
            self.put(key, content)
            return True

    with pytest.raises(Permanent, match="does not heed conditions"):
        try_out(Heedless())


def test_a_storage_that_shows_later_what_it_took_is_found_out() -> None:
    class Late(MemoryStorage):
        def list(self, prefix: str):
            return iter(())

    with pytest.raises(Permanent, match="does not give back at once"):
        try_out(Late())


def test_doctor_says_of_a_bucket_that_it_works_or_why_it_does_not(
    s3_server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**s3_server.environment, "SLIPWAY_STORAGE_URL": s3_server.url()}.items():
        monkeypatch.setenv(name, value)
    home = Home.locate({"SLIPWAY_HOME": str(tmp_path)})
    works = _guarded(_store, home)
    assert {one.level for one in works} == {Level.FINE}
    assert "takes, gives, lists and removes" in works[0].found
    assert list(open_storage(s3_server.url()).list("")) == []

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.READER[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.READER[1])
    [broken] = _guarded(_store, home)
    assert broken.level is Level.BROKEN
    assert "this account may not do that" in broken.found
    assert "read, write, list and delete" in broken.remedy
