"""What every `ObjectStorage` does. Subclass `StorageContract`, with a `storage` fixture: an empty one."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model_store.errors import Permanent
from model_store.storage.base import PART_BYTES, Missing, ObjectStorage

# What names of models and files have in them.
KEYS = [
    "a",
    "a/b",
    "bundles/ab12/credit risk/1/model.onnx",
    "x/ünï-中/%41+b=&c#d?.json",
    "deep/1/2/3/4/5/6",
    "x/~._-",
]
NO_KEYS = ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", ".", "a\\b", "a\0b"]


def keys(storage: ObjectStorage, prefix: str = "") -> list[str]:
    return sorted(one.key for one in storage.list(prefix))


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than two parts of an upload, and not a whole number of them."""
    path = tmp_path_factory.mktemp("large") / "file"
    path.write_bytes(os.urandom(2 * PART_BYTES + 12_345))
    return path


class StorageContract:
    @pytest.mark.parametrize("key", KEYS)
    def test_what_was_put_comes_back(self, storage: ObjectStorage, key: str) -> None:
        storage.put(key, b"content")
        assert storage.get(key) == b"content"
        known = storage.head(key)
        assert known is not None
        assert (known.key, known.size_bytes) == (key, 7)
        assert keys(storage) == [key]

    def test_an_object_may_be_empty(self, storage: ObjectStorage) -> None:
        storage.put("empty", b"")
        assert storage.get("empty") == b""
        assert list(storage.stream("empty")) == []

    def test_a_later_put_takes_the_place_of_an_earlier(self, storage: ObjectStorage) -> None:
        storage.put("key", b"the first, which is longer")
        storage.put("key", b"second")
        assert storage.get("key") == b"second"

    def test_what_is_not_there_is_missing_and_says_where(self, storage: ObjectStorage) -> None:
        storage.put("folder/inner", b"x")
        for key in ("none", "folder", "folder/inner/more"):
            assert storage.head(key) is None
            with pytest.raises(Missing) as found:
                storage.get(key)
            assert key in found.value.problem
            assert storage.url in found.value.problem
            with pytest.raises(Missing):
                list(storage.stream(key, 5))

    @pytest.mark.parametrize("key", NO_KEYS)
    def test_a_name_that_could_lead_elsewhere_is_no_key(self, storage: ObjectStorage, key: str) -> None:
        for act in (
            storage.get,
            storage.head,
            storage.delete,
            storage.touch,
            lambda key: storage.put(key, b""),
        ):
            with pytest.raises(Permanent, match="no key"):
                act(key)

    def test_one_of_many_creates_and_the_others_are_told(self, storage: ObjectStorage) -> None:
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(lambda n: storage.create("lock", b"%d" % n), range(8)))
        assert made.count(True) == 1
        assert storage.get("lock") == b"%d" % made.index(True)
        assert storage.create("lock", b"late") is False
        storage.delete("lock")
        assert storage.create("lock", b"again") is True

    def test_a_large_file_comes_back_from_anywhere_in_it(self, storage: ObjectStorage, large: Path) -> None:
        storage.put_file("large", large)
        content = large.read_bytes()
        known = storage.head("large")
        assert known is not None
        assert known.size_bytes == len(content)
        for start in (0, 1, PART_BYTES - 1, len(content) - 1):
            arrived = hashlib.sha256(b"".join(storage.stream("large", start))).digest()
            assert arrived == hashlib.sha256(content[start:]).digest()

    def test_a_stream_comes_in_pieces(self, storage: ObjectStorage, large: Path) -> None:
        storage.put_file("large", large)
        pieces = [len(piece) for piece in storage.stream("large")]
        assert len(pieces) > 3
        assert max(pieces) <= PART_BYTES

    def test_a_list_knows_whole_segments_only(self, storage: ObjectStorage) -> None:
        for key in ("ab/1", "ab/2/3", "abc/1", "b"):
            storage.put(key, key.encode())
        assert keys(storage, "ab") == ["ab/1", "ab/2/3"]
        assert keys(storage, "ab/2") == ["ab/2/3"]
        assert keys(storage, "a") == keys(storage, "none") == keys(storage, "b") == []
        assert keys(storage) == ["ab/1", "ab/2/3", "abc/1", "b"]

    def test_a_list_is_whole_however_long(self, storage: ObjectStorage) -> None:
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda n: storage.put(f"many/{n:04}", b"x"), range(1050)))
        assert keys(storage, "many") == [f"many/{n:04}" for n in range(1050)]

    def test_what_is_deleted_is_gone_and_may_be_deleted_again(self, storage: ObjectStorage) -> None:
        storage.put("a/1", b"x")
        storage.put("a/2", b"x")
        storage.touch("a/1")
        for _ in range(2):
            storage.delete("a/1")
            assert keys(storage) == ["a/2"]
            assert storage.head("a/1") is None
        storage.delete("never/there")

    def test_what_is_touched_counts_as_used_then_and_is_not_changed(self, storage: ObjectStorage) -> None:
        storage.put("a/1", b"x")
        [written] = storage.list("a")
        assert abs(written.used_at - time.time()) < 600
        time.sleep(1.1)  # some storages know whole seconds
        storage.touch("a/1")
        [touched] = storage.list("a")
        assert touched.used_at > written.used_at
        assert storage.get("a/1") == b"x"
        storage.touch("none")
        assert keys(storage) == ["a/1"]

    def test_whoever_reads_while_others_write_sees_one_of_them_whole(self, storage: ObjectStorage) -> None:
        versions = [bytes([n]) * 300_000 for n in range(6)]
        storage.put("key", versions[0])

        def write(content: bytes) -> None:
            storage.put("key", content)

        def read(_: int) -> bytes:
            return storage.get("key")

        with ThreadPoolExecutor(8) as threads:
            seen = threads.map(read, range(20))
            list(threads.map(write, versions * 3))
            assert all(content in versions for content in seen)
