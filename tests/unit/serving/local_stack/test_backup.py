"""What `deploy/backup` keeps of volumes and an object store, and gives back."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from model_store.errors import Permanent
from model_store.storage.opening import open_storage
from serving.local_stack.backup import load, load_objects, save, save_objects
from tests import s3

OBJECTS = {("slipway", "store/a/manifest.json"): b"{}", ("mlflow", "artifacts/1/model.bin"): b"\0" * 300_000}


def volumes(folder: Path) -> Path:
    for name in ("home", "bundles", "launcher"):
        (folder / name).mkdir(parents=True)
    return folder


def test_volumes_come_back_as_they_were(tmp_path: Path) -> None:
    before = volumes(tmp_path / "before")
    secret = before / "home" / "credentials.json"
    secret.write_text("{}")
    secret.chmod(0o600)
    (before / "bundles" / "latest").symlink_to("of-somebody")
    os.mkfifo(before / "home" / "pipe")
    saved = io.BytesIO()
    save(before, saved)
    after = volumes(tmp_path / "after")
    load(after, io.BytesIO(saved.getvalue()))
    assert (after / "home" / "credentials.json").read_text() == "{}"
    assert (after / "home" / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert (after / "bundles" / "latest").readlink() == Path("of-somebody")
    assert not (after / "home" / "pipe").exists()


def test_nothing_is_loaded_over_another_installation(tmp_path: Path) -> None:
    there = volumes(tmp_path)
    (there / "home" / "credentials.json").write_text("of somebody else")
    saved = io.BytesIO()
    save(there, saved)
    with pytest.raises(Permanent, match="not empty"):
        load(there, io.BytesIO(saved.getvalue()))
    assert (there / "home" / "credentials.json").read_text() == "of somebody else"


def test_a_file_that_leaves_the_volumes_is_refused(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(tarfile.OutsideDestinationError):
        load(volumes(tmp_path / "volumes"), io.BytesIO(made.getvalue()))
    assert not (tmp_path / "outside").exists()


def test_objects_come_back_byte_by_byte_into_stores_that_have_none() -> None:
    saved = io.BytesIO()
    with s3.server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        before = {name: open_storage(server.url()) for name in ("slipway", "mlflow")}
        after = {name: open_storage(server.url()) for name in ("slipway", "mlflow")}
        for (bucket, key), body in OBJECTS.items():
            before[bucket].put(key, body)
        save_objects(before, saved)
        load_objects(after, io.BytesIO(saved.getvalue()))
        for (bucket, key), body in OBJECTS.items():
            assert [each.key for each in after[bucket].list("")] == [key]
            assert after[bucket].get(key) == body
