"""A bundle comes to whoever has its URL: verified, whole, once for a machine, whatever was killed before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from model_store.durable import digest_bytes
from model_store.errors import Permanent, Retryable
from model_store.storage import fetch as fetching
from model_store.storage.base import Corrupt, Missing, ObjectStorage
from model_store.storage.fetch import BundleSource, cached, faults, fetch, fill
from model_store.storage.memory import MemoryStorage
from model_store.storage.opening import open_storage
from model_store.storage.shared import Shared
from tests import s3

REPOSITORY = Path(__file__).resolve().parents[4]
ID = "9fa70a0cddd2a399a4e89563"
FILES = {"credit risk/1/model.onnx": b"weights" * 50_000, "warmup.npz": b"rows", "empty": b""}


def lay_out(folder: Path, files: dict[str, bytes] = FILES, bundle_id: str = ID) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    digests = {name: digest_bytes(content) for name, content in files.items()}
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "id": bundle_id, "files": digests}))
    return folder


def published(storage: ObjectStorage, folder: Path, **changes: bytes) -> bytes:
    """The manifest of a bundle that is in the storage now."""
    bundle = lay_out(folder, {**FILES, **changes})
    assert Shared(storage).put_bundle(ID, bundle, replacing=False)
    return (bundle / "manifest.json").read_bytes()


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


@pytest.fixture
def url(s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Of a published bundle in a bucket."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    storage = open_storage(s3_server.url())
    published(storage, tmp_path / "published")
    return f"{storage.url}/bundles/{ID}"


@pytest.mark.parametrize("has_cache", [False, True])
def test_a_bundle_comes_out_of_a_bucket_as_it_was_published(
    url: str, tmp_path: Path, has_cache: bool
) -> None:
    into = tmp_path / "pod" / "model"
    for _ in range(2):
        assert fetch(url, into, cache=tmp_path / "cache" if has_cache else None) == ID
        assert content(into) == FILES
        assert sorted(path.name for path in into.iterdir()) == [
            "credit risk",
            "empty",
            "manifest.json",
            "warmup.npz",
        ]


def test_a_bundle_comes_out_of_a_folder(tmp_path: Path) -> None:
    lay_out(tmp_path / "store" / "bundles" / ID)
    fetch(f"{(tmp_path / 'store').as_uri()}/bundles/{ID}", tmp_path / "into")
    assert content(tmp_path / "into") == FILES


def test_changed_bytes_are_refused_and_nothing_is_there(tmp_path: Path) -> None:
    storage = MemoryStorage()
    manifest = published(storage, tmp_path / "published")
    source = Shared(storage).bundle(ID)
    key = source.file_key("warmup.npz", json.loads(manifest)["files"]["warmup.npz"])
    storage.objects[key] = (b"evil", 0.0)
    with pytest.raises(Corrupt, match="should be sha256") as found:
        fill(source, manifest, tmp_path / "into")
    assert key in found.value.problem
    assert not (tmp_path / "into" / "manifest.json").exists()
    assert not (tmp_path / "into" / "warmup.npz").exists()


def test_another_manifest_than_the_one_that_was_signed_is_refused(url: str, tmp_path: Path) -> None:
    source = BundleSource.of(url)
    right = digest_bytes(source.manifest())
    assert fetch(url, tmp_path / "right", digest=right) == ID
    with pytest.raises(Corrupt, match="should be sha256:0000"):
        fetch(url, tmp_path / "wrong", digest=f"sha256:{'0' * 64}")
    assert not (tmp_path / "wrong").exists()


def test_another_bundle_under_the_id_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path / "store" / "bundles" / "ab12")
    with pytest.raises(Corrupt, match=f"holds the bundle {ID}"):
        fetch(f"{(tmp_path / 'store').as_uri()}/bundles/ab12", tmp_path / "into")


def test_a_manifest_that_names_a_file_outside_is_refused(tmp_path: Path) -> None:
    bundle = lay_out(tmp_path / "store" / "bundles" / ID)
    manifest = {"schema": 1, "id": ID, "files": {"../../evil": digest_bytes(b"x")}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Permanent, match="no key"):
        fetch(f"{(tmp_path / 'store').as_uri()}/bundles/{ID}", tmp_path / "into")


@pytest.mark.parametrize(
    "wrong", ["s3://models/bundles/NOT-HEX", "s3://models", "ftp://x/bundles/ab", "/path/ab12"]
)
def test_what_is_no_bundles_url_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(Permanent, match=r"remedy: write|is no"):
        fetch(wrong, tmp_path / "into")


def test_what_is_there_already_is_not_overwritten(url: str, tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "mine").write_text("precious")
    with pytest.raises(Permanent, match="holds something else"):
        fetch(url, tmp_path / "into")
    assert (tmp_path / "into" / "mine").read_text() == "precious"


def test_a_broken_connection_is_taken_up_where_it_broke(tmp_path: Path) -> None:
    pieces: Counter[str] = Counter()

    def break_each_second(operation: str, key: str) -> None:
        pieces[operation] += operation == "piece"
        if operation == "piece" and pieces["piece"] % 2 == 0:
            raise Retryable("connection lost", remedy="again")

    storage = MemoryStorage()
    manifest = published(storage, tmp_path / "published", large=os.urandom(6_500_000))
    storage.before = break_each_second
    fill(Shared(storage).bundle(ID), manifest, tmp_path / "into")
    assert faults(tmp_path / "into", manifest) == []
    assert pieces["piece"] < 20  # 7 pieces, each lost at most once: nothing from the beginning again


def test_a_storage_that_gives_nothing_is_given_up(tmp_path: Path) -> None:
    def fail(operation: str, key: str) -> None:
        if operation == "piece":
            raise Retryable("connection lost", remedy="again")

    storage = MemoryStorage()
    manifest = published(storage, tmp_path / "published")
    storage.before = fail
    with pytest.raises(Retryable, match="connection lost"):
        fill(Shared(storage).bundle(ID), manifest, tmp_path / "into")


def test_a_left_part_of_something_else_is_not_built_upon(tmp_path: Path) -> None:
    storage = MemoryStorage()
    manifest = published(storage, tmp_path / "published")
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "warmup.npz.part").write_bytes(b"of another time")
    fill(Shared(storage).bundle(ID), manifest, tmp_path / "into")
    assert content(tmp_path / "into") == FILES


def test_another_build_of_the_same_id_takes_the_place_of_a_cached_one(tmp_path: Path) -> None:
    storage, cache = MemoryStorage(), tmp_path / "cache"
    source = Shared(storage).bundle(ID)
    first = published(storage, tmp_path / "first", engine=b"one build")
    assert content(cached(source, first, cache)) == {**FILES, "engine": b"one build"}
    Shared(storage).remove("bundles", ID)
    second = published(storage, tmp_path / "second", engine2=b"another")
    assert content(cached(source, second, cache)) == {**FILES, "engine2": b"another"}


def test_who_wrote_into_the_cache_harms_nobody(url: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fetch(url, tmp_path / "first", cache=cache)
    (tmp_path / "first" / "warmup.npz").write_bytes(b"evil")  # a link to the cached one
    fetch(url, tmp_path / "second", cache=cache)
    assert content(tmp_path / "second") == FILES


def test_the_cache_forgets_what_was_used_longest_ago(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for number, bundle_id in enumerate(("aa", "bb", "cc")):
        lay_out(tmp_path / "store" / "bundles" / bundle_id, bundle_id=bundle_id)
        fetch(f"{(tmp_path / 'store').as_uri()}/bundles/{bundle_id}", tmp_path / bundle_id, cache=cache)
        os.utime(cache / "bundles" / bundle_id, (number, number))
    fetching._shrink(cache, 800_000, keep="aa")
    assert sorted(path.name for path in (cache / "bundles").iterdir()) == ["aa", "cc"]
    assert content(tmp_path / "bb") == FILES  # a pod that has it keeps it


# as a process, as an init step runs it

COMMAND = [sys.executable, "-m", "model_store.storage", "fetch"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_says_by_its_status_whether_to_try_again(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(url, "--into", tmp_path / "into")
    assert (done.returncode, done.stderr) == (0, "")
    gone = run(url.replace(ID, "ab12"), "--into", tmp_path / "none")
    assert gone.returncode == 21
    assert "remedy" in gone.stderr
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    later = run(url, "--into", tmp_path / "none")
    assert later.returncode == 22
    assert "nobody listens there" in later.stderr


def test_many_pods_of_a_machine_download_once(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    pods = [
        subprocess.Popen([*COMMAND, url, "--into", tmp_path / f"pod{n}", "--cache", cache], cwd=REPOSITORY)
        for n in range(4)
    ]
    assert [pod.wait(120) for pod in pods] == [0] * 4
    for n in range(4):
        assert content(tmp_path / f"pod{n}") == FILES
    # All four are the same files on the disk, so they came over the network once.
    assert (tmp_path / "pod0" / "warmup.npz").stat().st_nlink == 5


def test_kill_minus_9_loses_nothing_that_had_arrived(s3_server: s3.Server, url: str, tmp_path: Path) -> None:
    storage = open_storage(s3_server.url())
    published(storage, tmp_path / "large", large=os.urandom(60_000_000))
    url = f"{storage.url}/bundles/{ID}"
    part = tmp_path / f".into.{ID}" / "large.part"
    first = subprocess.Popen([*COMMAND, url, "--into", tmp_path / "into"], cwd=REPOSITORY)
    while not (part.exists() and part.stat().st_size > 1_000_000):
        assert first.poll() is None, "it was done before it could be killed"
        time.sleep(0.001)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    had = part.stat().st_size
    assert not (tmp_path / "into").exists()

    code = (
        "import sys; from model_store.storage import remote; from model_store.storage.__main__ import main;"
        "whole = remote.BucketStorage.stream\n"
        "def stream(self, key, start=0): print('from', start); return whole(self, key, start)\n"
        "remote.BucketStorage.stream = stream; sys.exit(main(sys.argv[1:]))"
    )
    second = subprocess.run(
        [sys.executable, "-c", code, "fetch", url, "--into", tmp_path / "into"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert f"from {had}\n" in second.stdout
    assert (tmp_path / "into" / "large").stat().st_size == 60_000_000


def test_nothing_heavy_is_imported_to_fetch(tmp_path: Path) -> None:
    lay_out(tmp_path / "store" / "bundles" / ID)
    code = (
        "import sys; from model_store.storage.__main__ import main; main(sys.argv[1:]);"
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'numpy', 'mlflow', 'onnxruntime',"
        " 'airflow', 'pydantic', 'pandas', 'cryptography', 'great_expectations'}))"
    )
    arguments = ["fetch", f"{(tmp_path / 'store').as_uri()}/bundles/{ID}", "--into", str(tmp_path / "into")]
    said = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines()[1:] == [""]


def test_what_is_missing_says_so(s3_server: s3.Server, url: str, tmp_path: Path) -> None:
    with pytest.raises(Missing, match="there is no"):
        fetch(url.replace(ID, "ab"), tmp_path / "into")
