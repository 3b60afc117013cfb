"""Stores of several machines that share a bucket and no disk: each finds whole what the others made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model_store.bundle.garbage import collect_garbage
from model_store.durable import digest_bytes
from model_store.errors import Permanent, Retryable
from model_store.records import artifact_record
from model_store.storage.base import Corrupt, Missing, ObjectStorage
from model_store.storage.memory import MemoryStorage
from model_store.storage.opening import open_storage
from model_store.storage.shared import Shared
from model_store.storage.store import Store, open_store
from model_store.storage.store_folder import shrink
from tests import s3
from tests.small_models import keep

REPOSITORY = Path(__file__).resolve().parents[4]
Machine = Callable[[str], Store]
ID = "ab12"


@pytest.fixture(params=["memory", "bucket"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    if request.param == "memory":
        return MemoryStorage()
    server: s3.Server = request.getfixturevalue("s3_server")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return open_storage(server.url())


@pytest.fixture
def on(storage: ObjectStorage, tmp_path: Path) -> Machine:
    """The store as one machine has it."""
    keys = tmp_path / "bundle_keys.json"
    return lambda name: Store(tmp_path / name / "store", shared=Shared(storage), keys=keys)


def fill(**files: bytes) -> Callable[[Path], None]:
    def write(folder: Path, bundle_id: str = ID) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        digests = {name: digest_bytes(content) for name, content in files.items()}
        manifest = {"schema": 1, "id": bundle_id, "files": digests, "artifacts": []}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return write


def collect(store: Store, *kept: str, blobs: tuple[str, ...] = (), days: float = 2):
    later = datetime.now(UTC) + timedelta(days=days)
    return collect_garbage(store, keep=kept, blobs=blobs, now=later, grace=timedelta(days=1))


def test_an_artifact_of_one_machine_is_opened_on_another(on: Machine) -> None:
    record = artifact_record(keep(on("a"), b"weights"))
    opened = on("b").open(record)
    assert opened.path.read_bytes() == b"weights"
    assert opened.path.is_relative_to(on("b").root)
    assert sorted(path.name for path in opened.path.parent.iterdir()) == ["meta.json", "model.onnx"]
    assert on("b").provenance(record["digest"]) == on("c").provenance(record["digest"])


def test_bytes_that_changed_on_the_way_are_refused(on: Machine, storage: ObjectStorage) -> None:
    record = artifact_record(keep(on("a"), b"weights"))
    storage.put(f"artifacts/{record['digest'].removeprefix('sha256:')}/model.onnx", b"evil")
    with pytest.raises(Corrupt, match=r"should be sha256:"):
        on("b").open(record)
    assert not list(on("b").root.glob("artifacts/*/*"))
    assert on("a").open(record)  # what was verified earlier is still what it was


def test_a_changed_file_of_the_cache_is_fetched_anew(on: Machine) -> None:
    store = on("a")
    artifact, blob = keep(store, b"weights"), store.put_bytes(b"answers")
    bundle = store.publish(ID, fill(model=b"m"))
    artifact.path.write_bytes(b"broken")
    (store.root / "blobs" / blob.removeprefix("sha256:")).write_bytes(b"broken")
    (bundle / "model").write_bytes(b"broken")
    assert store.open(artifact_record(artifact)).path.read_bytes() == b"weights"
    assert store.get_bytes(blob) == b"answers"
    assert (store.bundle(ID) / "model").read_bytes() == b"m"


def test_what_one_machine_made_another_does_not_make_again(on: Machine) -> None:
    made = on("a").memo("stage", {"x": 1}, lambda: {"artifact": artifact_record(keep(on("a"), b"w"))})
    assert on("b").memo("stage", {"x": 1}, lambda: pytest.fail("made again")) == made


def test_a_memo_of_what_the_bucket_lost_counts_for_nothing(on: Machine) -> None:
    store = on("a")
    value = {"artifact": artifact_record(keep(store, b"w")), "blob": store.put_bytes(b"b")}
    store.memo("stage", {}, lambda: value)
    for kind, digest in (("artifacts", value["artifact"]["digest"]), ("blobs", value["blob"])):
        Shared(store.shared.storage).remove(kind, digest.removeprefix("sha256:"))
        assert store.memo("stage", {}, lambda: {"made": "again"}, keep=lambda _: False) == {"made": "again"}
        keep(store, b"w")


def test_what_nobody_made_is_missing(on: Machine) -> None:
    store = on("a")
    with pytest.raises(Missing):
        store.get_bytes("sha256:" + "1" * 64)
    with pytest.raises(Missing):
        store.manifest("abcd")
    with pytest.raises(Missing):
        store.bundle("abcd")
    assert not store.has_bundle("abcd")


def test_two_builds_of_one_bundle_are_never_mixed(on: Machine) -> None:
    """The id leaves out an engine's bytes, which differ from build to build."""
    both = threading.Barrier(2)

    def build(machine: str) -> None:
        def write(folder: Path) -> None:
            fill(engine=machine.encode() * 1000, model=b"same")(folder)
            both.wait(30)

        found[machine] = on(machine).publish(ID, write)

    found: dict[str, Path] = {}
    threads = [threading.Thread(target=build, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = ({path.name: path.read_bytes() for path in found[name].iterdir()} for name in ("a", "b"))
    assert first == second
    assert {path.name: path.read_bytes() for path in on("c").bundle(ID).iterdir()} == first


def test_a_bundle_that_is_signed_anew_reaches_everybody(on: Machine) -> None:
    on("a").publish(ID, fill(model=b"m", note=b"old"))
    assert (on("b").bundle(ID) / "note").read_bytes() == b"old"
    on("a").publish(ID, fill(model=b"m", note=b"new"), replacing=True)
    assert (on("b").bundle(ID) / "note").read_bytes() == b"new"


def test_what_was_built_before_there_was_a_bucket_can_still_be_gone_back_to(
    on: Machine, tmp_path: Path
) -> None:
    Store(tmp_path / "a" / "store").publish(ID, fill(model=b"m"))
    assert on("a").has_bundle(ID)
    assert (on("a").bundle(ID) / "model").read_bytes() == b"m"
    assert on("a").manifest(ID)
    assert not on("b").has_bundle(ID)


def test_garbage_is_found_and_removed_in_the_bucket(on: Machine, storage: ObjectStorage) -> None:
    store = on("a")
    used = keep(store, b"used")
    blobs = [store.put_bytes(content) for content in (b"1", b"2")]
    store.memo("stage", {}, lambda: {"blob": blobs[1]})
    store.publish("aa", lambda folder: fill(model=b"1")(folder, "aa"))
    store.publish("bb", lambda folder: fill(model=b"2")(folder, "bb"))
    young = collect(store, days=0)
    assert (young.bundles, young.artifacts, young.blobs, young.memos) == ((), (), 0, 0)
    found = collect(on("b"), "aa", blobs=(blobs[0],))
    assert found.bundles == ("bb",)
    assert found.artifacts == (used.digest.removeprefix("sha256:"),)
    assert (found.blobs, found.memos) == (1, 1)
    assert found.size_bytes > 0
    left = {one.key.split("/")[0] + "/" + one.key.split("/")[1] for one in storage.list("")}
    assert left == {"bundles/aa", f"blobs/{blobs[0].removeprefix('sha256:')}"}
    with pytest.raises(Missing):
        on("c").bundle("bb")


def test_what_is_used_between_the_look_and_the_removal_stays(tmp_path: Path) -> None:
    clock, storage = [1000.0], MemoryStorage(clock=lambda: clock[0])
    store = Store(tmp_path / "a", shared=Shared(storage))
    artifact = keep(store, b"w")
    clock[0] = 5000.0
    Store(tmp_path / "b", shared=Shared(storage)).open(artifact_record(artifact))
    assert store.remove("artifacts", artifact.path.parent.name, 3000.0) is False
    assert store.has(artifact.digest)


def test_the_cache_of_a_bucket_is_bounded_and_spares_what_stages_read(on: Machine) -> None:
    store = on("a")
    artifacts = [keep(store, bytes([n]) * 1000) for n in range(4)]
    for n, artifact in enumerate(artifacts):
        os.utime(artifact.path.parent, (n, n))
    os.utime(artifacts[0].path.parent)
    shrink(store.root, 2500, unused_since=1000.0)
    here = {path.name for path in (store.root / "artifacts").iterdir()}
    assert artifacts[0].path.parent.name in here
    assert artifacts[1].path.parent.name not in here
    assert store.open(artifact_record(artifacts[1])).path.read_bytes() == bytes([1]) * 1000


@pytest.mark.parametrize("at", ["meta.json", "model.onnx"])
def test_a_bucket_that_goes_away_in_the_middle_is_waited_for(tmp_path: Path, at: str) -> None:
    def fail(operation: str, key: str) -> None:
        if operation == "put" and key.endswith(at):
            raise Retryable("away", remedy="wait")

    storage = MemoryStorage(before=fail)
    store = Store(tmp_path / "a", shared=Shared(storage))
    with pytest.raises(Retryable):
        keep(store, b"w")
    digest = digest_bytes(b"w")
    assert not Store(tmp_path / "b", shared=Shared(storage)).has(digest)
    storage.before = lambda operation, key: None
    assert keep(store, b"w").digest == digest
    assert Store(tmp_path / "b", shared=Shared(storage)).has(digest)


def test_what_came_here_can_be_gone_back_to_while_the_bucket_is_away(tmp_path: Path) -> None:
    def away(operation: str, key: str) -> None:
        raise Retryable("away", remedy="wait")

    storage = MemoryStorage()
    store = Store(tmp_path / "a", shared=Shared(storage))
    store.publish(ID, fill(model=b"m"))
    storage.before = away
    assert (store.bundle(ID) / "model").read_bytes() == b"m"
    assert store.has_bundle(ID)
    assert store.manifest(ID)
    with pytest.raises(Retryable):
        store.bundle("cd")
    with pytest.raises(Retryable):
        store.manifest("cd")


WRITER = """
import json, sys
from pathlib import Path
from model_store.durable import digest_bytes
from model_store.storage.store import open_store
from model_store.types import Toolchain

store = open_store(Path(sys.argv[1]))
def write(folder):
    for index in range(5):
        (folder / str(index)).write_bytes(b"%d" % index * 5000)
    files = {str(i): digest_bytes(b"%d" % i * 5000) for i in range(5)}
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "id": "%04x" % number, "files": files}))

print("ready", flush=True)
number = 0
while True:
    number += 1
    artifact = store.put(b"%d" % number * 9000, format="onnx", precision="fp32", parent_digest=None,
                         toolchain=Toolchain("t", "1"))
    store.publish("%04x" % number, write)
    store.memo("stage", {"n": number}, lambda: {"digest": artifact.digest, "toolchain": {}})
"""


def test_kill_minus_9_at_any_moment_leaves_nothing_half_made_in_the_bucket(
    s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {**s3_server.environment, "SLIPWAY_STORAGE_URL": s3_server.url()}.items():
        monkeypatch.setenv(name, value)
    for moment in range(6):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "writer")]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(0.15 + 0.043 * moment)
            writer.send_signal(signal.SIGKILL)
    reader = open_store(tmp_path / "reader")
    bundles = [one.name for one in reader.kept("bundles") if reader.shared.has_bundle(one.name)]
    assert bundles
    for bundle in bundles:
        folder = reader.bundle(bundle)
        assert all((folder / str(n)).read_bytes() == b"%d" % n * 5000 for n in range(5))
    for artifact in reader.kept("artifacts"):
        if reader.has(f"sha256:{artifact.name}"):
            meta = json.loads(reader.shared.meta(artifact.name))
            del meta["provenance"]
            reader.open(meta)


def test_the_url_chooses_the_store(tmp_path: Path) -> None:
    home = tmp_path / "store"
    assert open_store(home, {}).root == home
    other = open_store(home, {"SLIPWAY_STORAGE_URL": (tmp_path / "mounted").as_uri()})
    assert (other.root, other.shared) == (tmp_path / "mounted", None)
    assert other.keys == tmp_path / "bundle_keys.json"
    bucket = open_store(
        home, {"SLIPWAY_STORAGE_URL": "s3://models/x", "SLIPWAY_BUNDLE_KEYS": "/run/keys.json"}
    )
    assert (bucket.root, bucket.url, bucket.keys) == (home, "s3://models/x", Path("/run/keys.json"))
    with pytest.raises(Permanent, match="is no storage"):
        open_store(home, {"SLIPWAY_STORAGE_URL": "models"})
