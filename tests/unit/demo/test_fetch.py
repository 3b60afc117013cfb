"""Packages are fetched once, are what was pinned, and say what to do when they cannot be."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from demo import fetch as fetching
from demo.fetch import NPM_REGISTRY, Package, fetch, npm_registry, open_tarball, require_digest
from model_store.errors import Permanent, Retryable


def tarball() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("package/data/spam-1/1.json")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"{}"))
    return buffer.getvalue()


TARBALL = tarball()
MAILS = Package("@scope/mails", "1.2.3", hashlib.sha256(TARBALL).hexdigest(), "npm")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An npm registry on a free port; yields the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path.endswith(".tgz") else 404)
            self.end_headers()
            self.wfile.write(TARBALL)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/npm/")
    yield asked
    server.shutdown()
    server.server_close()


def test_an_npm_package_is_fetched_once_by_its_address(registry: list[str], tmp_path: Path) -> None:
    told: list[str] = []
    folder = fetch(MAILS, tmp_path, told.append)
    assert folder == fetch(MAILS, tmp_path, told.append) == tmp_path / "scope-mails-1.2.3"
    assert registry == ["/npm/@scope/mails/-/mails-1.2.3.tgz"]
    assert told == ["fetching @scope/mails 1.2.3 from npm, once"]
    with open_tarball(folder) as archive:
        assert archive.getnames() == ["package/data/spam-1/1.json"]


def test_another_file_than_the_pinned_one_is_refused_and_not_kept(
    registry: list[str], tmp_path: Path
) -> None:
    with pytest.raises(Permanent, match="expected"):
        fetch(Package("@scope/mails", "1.2.3", "0" * 64, "npm"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_registry_that_does_not_answer_is_worth_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9/")
    with pytest.raises(Retryable, match=r"cannot be fetched from npm.*127\.0\.0\.1:9(?s:.*)remedy: Check"):
        fetch(MAILS, tmp_path)


@pytest.mark.parametrize(
    ("npmrc", "environ", "expected"),
    [
        ("", {}, NPM_REGISTRY),
        ("registry=https://mirror.example/npm", {}, "https://mirror.example/npm"),
        (
            'registry = "https://mirror.example"\n@scope:registry=https://own.example',
            {},
            "https://own.example",
        ),
        ("registry=https://a.example", {"npm_config_registry": "https://b.example"}, "https://b.example"),
    ],
)
def test_the_registry_is_the_users_own(
    tmp_path: Path, npmrc: str, environ: dict[str, str], expected: str
) -> None:
    (tmp_path / ".npmrc").write_text(npmrc)
    assert npm_registry("@scope/mails", {"HOME": str(tmp_path), **environ}) == expected


class Installer:
    """Stands for uv: notes what it is asked, and ends as it is told."""

    def __init__(self, stderr: str = "") -> None:
        self.stderr, self.asked, self.pins = stderr, [], []  # type: ignore[var-annotated]

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.asked.append(command)
        self.pins.append(Path(command[-1]).read_text())
        (Path(command[command.index("--target") + 1]) / "module.py").write_text("")
        return subprocess.CompletedProcess(command, int(bool(self.stderr)), "", self.stderr)


WHEEL = Package("wheel-of-it", "2.0", "ab" * 32, "PyPI")


def test_a_wheel_is_unpacked_beside_the_environment_and_its_hash_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installer = Installer()
    monkeypatch.setattr(fetching.subprocess, "run", installer)
    folder = fetch(WHEEL, tmp_path)
    assert {"--no-deps", "--require-hashes", "--target"} <= set(installer.asked[0])
    assert installer.pins == [f"wheel-of-it==2.0 --hash=sha256:{'ab' * 32}\n"]
    assert [path.name for path in folder.iterdir()] == ["module.py"]


@pytest.mark.parametrize(
    ("stderr", "error"),
    [("error: Hash mismatch for wheel-of-it", Permanent), ("error: dns error", Retryable)],
)
def test_a_wheel_that_does_not_come_says_why_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, error: type[Exception]
) -> None:
    monkeypatch.setattr(fetching.subprocess, "run", Installer(stderr))
    with pytest.raises(error, match=stderr):
        fetch(WHEEL, tmp_path)
    assert not (tmp_path / WHEEL.folder).exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_without_uv_and_pip_the_remedy_names_both_ways(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fetching.shutil, "which", lambda _: None)
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Permanent, match="Install uv"):
        fetch(WHEEL, tmp_path)


def test_a_file_that_changed_in_the_cache_is_refused_with_what_to_remove(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"good")
    assert require_digest(path, hashlib.sha256(b"good").hexdigest()) == path
    path.write_bytes(b"evil")
    with pytest.raises(Permanent, match=f"Remove {tmp_path}"):
        require_digest(path, hashlib.sha256(b"good").hexdigest())
