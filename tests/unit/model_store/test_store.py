"""The store keeps what was made, whole and unchanged, whoever else writes and whenever power fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model_store.bundle.garbage import collect_garbage
from model_store.durable import settle, staging, sweep, write_file
from model_store.errors import Permanent
from model_store.records import artifact_record
from model_store.storage.base import Corrupt, Missing
from model_store.storage.store import Store
from model_store.types import Artifact, Toolchain
from tests.small_models import keep

REPOSITORY = Path(__file__).resolve().parents[3]


def fill(content: bytes = b"x"):
    def write(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "file").write_bytes(content)

    return write


def age(path: Path, *, hours: float) -> None:
    moment = time.time() - hours * 3600
    os.utime(path, (moment, moment))


def collect(store: Store, *, keep: list[str], grace_hours: float = 1):
    return collect_garbage(store, keep=keep, now=datetime.now(UTC), grace=timedelta(hours=grace_hours))


def test_an_artifact_comes_back_as_it_was_put(store: Store) -> None:
    artifact = keep(store, b"weights")
    assert artifact.path.read_bytes() == b"weights"
    assert artifact.size_bytes == 7
    assert store.open(artifact_record(artifact)) == artifact


def test_the_same_bytes_are_kept_once_under_one_digest(store: Store) -> None:
    assert keep(store, b"same").path == keep(store, b"same").path
    assert len(list((store.root / "artifacts").iterdir())) == 1


def test_changed_bytes_are_refused_with_the_file_and_a_remedy(store: Store) -> None:
    artifact = keep(store, b"weights")
    artifact.path.write_bytes(b"weighty")
    with pytest.raises(Corrupt, match=r"should be sha256:.*\n  remedy: remove") as found:
        store.open(artifact_record(artifact))
    assert str(artifact.path) in str(found.value)


def test_putting_the_right_bytes_again_heals_a_corrupt_artifact(store: Store) -> None:
    keep(store, b"weights").path.write_bytes(b"broken!")
    assert keep(store, b"weights").path.read_bytes() == b"weights"


def test_a_missing_artifact_says_so(store: Store) -> None:
    record = artifact_record(keep(store, b"a")) | {"digest": "sha256:" + "0" * 64}
    with pytest.raises(Missing, match="not in the store"):
        store.open(record)


@pytest.mark.parametrize("name", ["../etc", "a/b", "", "..", "ABCDEF", "deadbeef\n"])
def test_a_name_that_is_no_digest_never_becomes_a_path(store: Store, name: str) -> None:
    with pytest.raises(Permanent, match="not a digest or id"):
        store.bundle_path(name)


def test_blobs_come_back_and_changed_ones_are_refused(store: Store) -> None:
    digest = store.put_bytes(b"answers")
    assert store.get_bytes(digest) == b"answers"
    path = store.root / "blobs" / digest.removeprefix("sha256:")
    path.write_bytes(b"other")
    with pytest.raises(Corrupt):
        store.get_bytes(digest)
    assert store.put_bytes(b"answers") == digest
    assert store.get_bytes(digest) == b"answers"
    with pytest.raises(Missing):
        store.get_bytes("sha256:" + "1" * 64)


# memos


def test_a_stage_runs_once_for_the_same_inputs(store: Store) -> None:
    calls = []
    for _ in range(2):
        assert store.memo("stage", {"a": 1}, lambda: calls.append(1) or {"made": 1}) == {"made": 1}
    assert store.memo("stage", {"a": 2}, lambda: calls.append(2) or {"made": 2}) == {"made": 2}
    assert calls == [1, 2]


def test_what_is_not_worth_keeping_is_made_again(store: Store) -> None:
    calls = []
    for _ in range(2):
        store.memo("stage", {}, lambda: calls.append(1) or {"ok": False}, keep=lambda value: value["ok"])
    assert len(calls) == 2


def test_a_memo_of_an_artifact_that_is_gone_counts_for_nothing(store: Store) -> None:
    artifact = keep(store, b"weights")
    value = {"list": [{"artifact": artifact_record(artifact)}]}
    store.memo("stage", {}, lambda: value)
    store.remove("artifacts", artifact.path.parent.name)
    assert store.memo("stage", {}, lambda: {"made": "again"}) == {"made": "again"}


def test_a_torn_memo_counts_for_nothing(store: Store) -> None:
    store.memo("stage", {}, lambda: {"made": 1})
    [path] = store.root.glob("memo/stage/*.json")
    path.write_text('{"value"')
    assert store.memo("stage", {}, lambda: {"made": 2}) == {"made": 2}


# bundles


def test_a_bundle_is_written_once(store: Store) -> None:
    first = store.publish("ab12", fill(b"first"))
    again = store.publish("ab12", fill(b"second"))
    assert first == again
    assert (first / "model" / "file").read_bytes() == b"first"


def test_a_writer_that_fails_leaves_nothing(store: Store) -> None:
    def fail(folder: Path) -> None:
        fill()(folder)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        store.publish("ab12", fail)
    assert not store.bundle_path("ab12").exists()
    assert list((store.root / "tmp").iterdir()) == []


# other processes

WRITER = """
import sys, time
from pathlib import Path
from model_store.storage.store import Store
from model_store.types import Toolchain

store, until = Store(Path(sys.argv[1])), time.monotonic() + float(sys.argv[2])

def write(folder):
    for index in range(20):
        (folder / str(index)).write_bytes(b"%d" % index * 5000)

print("ready", flush=True)
number = 0
while time.monotonic() < until:
    number += 1
    store.put(b"%d" % (number % 7) * 9000, format="onnx", precision="fp32", parent_digest=None,
              toolchain=Toolchain("t", "1"))
    store.publish(f"{number:04x}", write)
    store.memo("stage", {"n": number}, lambda: {"n": number})
"""


def start_writer(root: Path, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", WRITER, str(root), str(seconds)]
    writer = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"
    return writer


def finish(writer: subprocess.Popen[bytes]) -> int:
    assert writer.stdout is not None
    writer.stdout.close()
    return writer.wait(30)


def assert_whole(store: Store) -> None:
    for bundle in store.root.glob("bundles/*"):
        assert sorted(path.name for path in bundle.iterdir()) == sorted(map(str, range(20)))
        assert all(path.read_bytes() == path.name.encode() * 5000 for path in bundle.iterdir())
    for directory in store.root.glob("artifacts/*"):
        meta = json.loads((directory / "meta.json").read_bytes())
        del meta["provenance"]
        store.open(meta)
    for memo in store.root.glob("memo/stage/*.json"):
        json.loads(memo.read_bytes())


def test_two_processes_writing_the_same_things_both_succeed(store: Store) -> None:
    writers = [start_writer(store.root, 1.0) for _ in range(2)]
    assert [finish(writer) for writer in writers] == [0, 0]
    assert len(list(store.root.glob("bundles/*"))) > 1
    assert_whole(store)
    assert list((store.root / "tmp").iterdir()) == []


def test_kill_minus_9_at_any_moment_leaves_nothing_half_made(store: Store) -> None:
    for moment in range(6):
        writer = start_writer(store.root, 30)
        time.sleep(0.02 + 0.037 * moment)
        writer.send_signal(signal.SIGKILL)
        assert finish(writer) == -signal.SIGKILL
        assert_whole(store)
    store.sweep()
    assert list((store.root / "tmp").iterdir()) == []
    assert [path for path in store.root.rglob("*") if path.name.endswith(".tmp")] == []


def test_sweeping_removes_what_the_dead_left_and_spares_the_living(tmp_path: Path) -> None:
    with staging(tmp_path) as living:
        (living / "file").write_bytes(b"being written")
        (tmp_path / "dead.lock").touch()
        (tmp_path / "dead").mkdir()
        (tmp_path / "dead" / "half").write_bytes(b"h")
        assert sweep(tmp_path) == ["dead"]
        assert (living / "file").exists()
        assert not (tmp_path / "dead").exists()


def test_what_a_killed_step_wrote_to_its_scratch_is_removed_by_the_next_build(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from model_store.storage.store import Store\n"
        "with Store(pathlib.Path(sys.argv[1])).scratch() as folder:\n"
        "    (folder / 'half').write_bytes(b'h'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    left = list(tmp_path.rglob("half"))
    assert len(left) == 1

    assert Store(tmp_path).sweep() == [left[0].parent.name]
    assert not left[0].parent.exists()


def test_the_second_to_settle_is_told_so(tmp_path: Path) -> None:
    for expected in (True, False):
        with staging(tmp_path / "tmp") as staged:
            (staged / "file").write_bytes(b"x")
            assert settle(staged, tmp_path / "final") is expected
    assert (tmp_path / "final" / "file").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_file(path, b"old", area=tmp_path / "tmp")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new", area=tmp_path / "tmp")
    assert path.read_bytes() == b"old"
    assert list((tmp_path / "tmp").iterdir()) == []


# garbage


def publish_with(store: Store, bundle_id: str, artifact: Artifact) -> Path:
    def write(folder: Path) -> None:
        (folder / "manifest.json").write_text(json.dumps({"artifacts": [artifact_record(artifact)]}))

    return store.publish(bundle_id, write)


def test_garbage_collection_keeps_named_bundles_and_what_they_came_from(store: Store) -> None:
    kept, dropped = keep(store, b"kept"), keep(store, b"dropped")
    store.memo("stage", {"of": "kept"}, lambda: artifact_record(kept))
    store.memo("stage", {"of": "dropped"}, lambda: artifact_record(dropped))
    publish_with(store, "aa", kept)
    publish_with(store, "bb", dropped)
    for path in [
        *store.root.glob("bundles/*"),
        *store.root.glob("artifacts/*"),
        *store.root.glob("memo/*/*"),
    ]:
        age(path, hours=2)
    collected = collect(store, keep=["aa"])
    assert collected.bundles == ("bb",)
    assert collected.artifacts == (dropped.digest.removeprefix("sha256:"),)
    assert collected.memos == 1
    assert store.open(artifact_record(kept))
    assert store.bundle_path("aa").is_dir()


def test_what_is_used_while_it_is_removed_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is repeated publishes an old bundle again just when it is found to be garbage."""
    bundle = store.publish("abc", lambda folder: None)
    week = time.time() - 7 * 86_400
    os.utime(bundle, (week, week))
    rename = Path.rename

    def used_just_before(path: Path, target: Path) -> Path:
        if path == bundle:
            store.publish("abc", lambda folder: None)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", used_just_before)
    assert collect(store, keep=[]).bundles == ()
    assert bundle.is_dir()


def test_a_bundle_that_is_removed_while_it_is_published_is_written_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, utime = store.publish("abc", lambda folder: None), os.utime
    left = [bundle]

    def gone_first(path: Path) -> None:
        if left:
            left.pop().rmdir()
        utime(path)

    monkeypatch.setattr(os, "utime", gone_first)
    assert store.publish("abc", lambda folder: None).is_dir()


def test_garbage_collection_keeps_the_blobs_it_is_told(store: Store) -> None:
    digests = [store.put_bytes(content) for content in (b"1", b"2")]
    for digest in digests:
        os.utime(store.root / "blobs" / digest.removeprefix("sha256:"), (0, 0))
    now, grace = datetime.now(UTC), timedelta(hours=1)
    assert collect_garbage(store, keep=[], blobs=digests[:1], now=now, grace=grace).blobs == 1
    assert store.get_bytes(digests[0]) == b"1"


def test_garbage_collection_spares_what_a_build_in_flight_just_made(store: Store) -> None:
    artifact = keep(store, b"new")
    digest = store.put_bytes(b"answers")
    publish_with(store, "cc", artifact)
    collected = collect(store, keep=[])
    assert (collected.bundles, collected.artifacts, collected.blobs) == ((), (), 0)
    assert store.get_bytes(digest)


def test_using_an_artifact_keeps_it_young(store: Store) -> None:
    artifact = keep(store, b"old but used")
    age(artifact.path.parent, hours=5)
    store.open(artifact_record(artifact))
    assert collect(store, keep=[]).artifacts == ()


def test_provenance_says_how_the_bytes_were_made(store: Store) -> None:
    artifact = store.put(
        b"x",
        format="onnx",
        precision="int8",
        parent_digest="sha256:00",
        toolchain=Toolchain("t", "1"),
        provenance={"excluded": ["head"]},
    )
    assert store.provenance(artifact.digest) == {"excluded": ["head"]}
