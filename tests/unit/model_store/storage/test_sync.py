"""What pods write down reaches whoever reads it, on other machines, once and whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_store.errors import Retryable
from model_store.storage.folder import FolderStorage
from model_store.storage.memory import MemoryStorage
from model_store.storage.sync import Which, copy_new
from tests import s3

REPOSITORY = Path(__file__).resolve().parents[4]


def keys(storage: MemoryStorage) -> list[str]:
    return sorted(one.key for one in storage.list(""))


def test_only_what_is_new_is_copied(tmp_path: Path) -> None:
    source, target = FolderStorage(tmp_path), MemoryStorage()
    source.put("m/v1-a-1.parquet", b"one")
    source.put("m/v1-a-2.partial", b"being written")
    assert copy_new(source, target, Which()) == ["m/v1-a-1.parquet"]
    source.put("m/v1-b-2.parquet", b"two")
    assert copy_new(source, target, Which()) == ["m/v1-b-2.parquet"]
    assert copy_new(source, target, Which()) == []
    assert target.get("m/v1-b-2.parquet") == b"two"


def test_two_pods_that_write_the_same_names_do_not_meet() -> None:
    target = MemoryStorage()
    for pod in ("blue-1", "blue-2"):
        source = MemoryStorage()
        source.put("m/v1-a-1.parquet", pod.encode())
        copy_new(source, target, Which(added=pod))
    assert keys(target) == ["m/v1-a-1-blue-1.parquet", "m/v1-a-1-blue-2.parquet"]


def test_the_newest_come_and_what_is_old_or_too_much_does_not() -> None:
    clock, target = [0.0], MemoryStorage()
    source = MemoryStorage(clock=lambda: clock[0])
    for second in range(5):
        clock[0] = float(second)
        source.put(f"m/{second}.parquet", bytes(100))
    assert copy_new(source, target, Which(max_bytes=250, since=1.0)) == ["m/4.parquet", "m/3.parquet"]
    assert copy_new(source, target, Which(since=1.0)) == ["m/2.parquet", "m/1.parquet"]


def test_what_the_pod_deletes_meanwhile_is_left_out(tmp_path: Path) -> None:
    source = FolderStorage(tmp_path)
    for number in range(3):
        source.put(f"m/{number}.parquet", b"x")
    gone = iter([tmp_path / "m" / "1.parquet"])
    target = MemoryStorage(
        before=lambda operation, key: next(gone, tmp_path / "none").unlink(missing_ok=True)
    )
    assert len(copy_new(source, target, Which())) == 2


def test_a_target_that_goes_away_is_said_and_gone_on_with(tmp_path: Path) -> None:
    def fail(operation: str, key: str) -> None:
        if key.endswith("1.parquet"):
            raise Retryable("away", remedy="wait")

    source, target = FolderStorage(tmp_path), MemoryStorage(before=fail)
    for number in range(3):
        source.put(f"m/{number}.parquet", b"x")
    with pytest.raises(Retryable):
        copy_new(source, target, Which())
    target.before = lambda operation, key: None
    copy_new(source, target, Which())
    assert len(keys(target)) == 3


def test_a_log_goes_through_a_bucket_and_is_read_on_another_machine(
    s3_server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "pod" / "m").mkdir(parents=True)
    pq.write_table(pa.table({"rows": [1, 2]}), tmp_path / "pod" / "m" / "v1-x-1.parquet")
    bucket = s3_server.url()
    for source, target, more in (
        ((tmp_path / "pod").as_uri(), bucket, ["--add-name", "pod-7"]),
        (bucket, (tmp_path / "controller").as_uri(), ["--max-mb", "256"]),
    ):
        command = [sys.executable, "-m", "model_store.storage", "sync", source, target, *more]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.startswith("1 new in ")
    assert pq.read_table(tmp_path / "controller" / "m" / "v1-x-1-pod-7.parquet").num_rows == 2
