"""Folder, double and bucket keep one contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.storage.base import ObjectStorage
from model_store.storage.folder import FolderStorage
from model_store.storage.memory import MemoryStorage
from model_store.storage.opening import open_storage
from tests import s3
from tests.contract.storage_contract import StorageContract, large

__all__ = ["large"]


class TestFolderStorage(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> ObjectStorage:
        return FolderStorage(tmp_path / "some folder")


class TestMemoryStorage(StorageContract):
    @pytest.fixture
    def storage(self) -> ObjectStorage:
        return MemoryStorage()


class TestBucketStorage(StorageContract):
    @pytest.fixture
    def storage(self, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
        for name, value in s3_server.environment.items():
            monkeypatch.setenv(name, value)
        return open_storage(s3_server.url())
