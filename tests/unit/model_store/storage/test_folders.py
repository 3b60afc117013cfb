"""Folders that one machine writes and another one reads, such as Data Docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.errors import Permanent
from model_store.storage.memory import MemoryStorage
from model_store.storage.shared import Shared
from model_store.storage.store import Store, bring, pack, share, unpack

NAME = "data_docs/churn/v3"


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        (folder / "deep" / "er").mkdir(parents=True, exist_ok=True)
        (folder / "deep" / "er" / name).write_text(content)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Store, Store]:
    storage = MemoryStorage()
    return Store(tmp_path / "a", shared=Shared(storage)), Store(tmp_path / "b", shared=Shared(storage))


def test_a_folder_comes_back_file_by_file(machines: tuple[Store, Store], tmp_path: Path) -> None:
    a, b = machines
    digest = pack(a, write(tmp_path / "written", one="1", same="1"))
    unpack(b, digest, tmp_path / "read")
    assert read(tmp_path / "read") == {"deep/er/one": "1", "deep/er/same": "1"}


def test_a_list_that_leads_outside_is_refused(machines: tuple[Store, Store], tmp_path: Path) -> None:
    digest = machines[0].put_bytes(b'{"files": {"../../evil": "sha256:00"}}')
    with pytest.raises(Permanent, match="no key"):
        unpack(machines[1], digest, tmp_path / "read")


def test_what_was_shared_last_is_found_by_its_name(machines: tuple[Store, Store], tmp_path: Path) -> None:
    a, b = machines
    share(a, NAME, write(tmp_path / "a_docs", one="data"))
    share(a, NAME, write(tmp_path / "a_docs", two="gates"))
    bring(b, NAME, tmp_path / "b_docs")
    assert read(tmp_path / "b_docs") == read(tmp_path / "a_docs")


def test_what_is_here_stays_and_what_nobody_shared_is_not_there(
    machines: tuple[Store, Store], tmp_path: Path
) -> None:
    a, b = machines
    bring(b, NAME, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    share(a, NAME, tmp_path / "none")
    share(a, NAME, write(tmp_path / "a_docs", one="theirs"))
    bring(b, NAME, write(tmp_path / "own", one="own"))
    assert read(tmp_path / "own") == {"deep/er/one": "own"}


def test_an_installation_on_one_machine_shares_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    share(store, NAME, write(tmp_path / "docs", one="1"))
    bring(store, NAME, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "store").exists()
