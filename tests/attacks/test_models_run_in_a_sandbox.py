"""A model's code does while it is converted what it can; nothing of that works in the sandbox."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_store import sandbox
from model_store.errors import Permanent
from model_store.foreign_code import Limits, run_child
from model_store.sandbox import NoSandbox, descendants
from tests.unit.serving.pod.held_engine import eventually

LOADER = "import pickle, sys; pickle.load(open(sys.argv[1] + '/../model/model.pkl', 'rb'))"


class Code:
    """What runs when it is unpickled. It may write what it found to `told` in its folder."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return exec, (self.code,)


class Attack:
    """A model, and where its code is run: in the sandbox, or as before there was one."""

    def __init__(self, folder: Path) -> None:
        self.work, self.model, self.script = folder / "work", folder / "model", folder / "scripts" / "load.py"
        for each in (self.work, self.model, self.script.parent):
            each.mkdir()
        self.script.write_text(LOADER)

    def run(self, code: str, **limits: Any) -> int:
        (self.model / "model.pkl").write_bytes(pickle.dumps(Code(code)))
        limit = Limits(**{"seconds": 60, **limits})
        return run_child(self.script, self.work, limit, readable=(self.model,))

    def told(self) -> Any:
        return json.loads((self.work / "told").read_text())


TELL = """
import json, os
tell = lambda said: open(os.environ["HOME"] + "/told", "w").write(json.dumps(said))
"""
FILL = """
with open({}, 'wb') as file:
    while True:
        file.write(bytes(1 << 20))
"""


@pytest.fixture
def attack(tmp_path: Path) -> Attack:
    return Attack(tmp_path)


@pytest.fixture(params=["sandbox", "off"])
def is_boxed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "off":
        monkeypatch.setenv(sandbox.VARIABLE, sandbox.OFF)
    return bool(request.param == "sandbox")


def test_it_reads_no_key(attack: Attack, tmp_path: Path, is_boxed: bool) -> None:
    """By their names, by walking, and through other processes."""
    names = [
        "bundle_keys.json",
        "credentials.json",
        "controller-token",
        "api-keys.json",
        "airflow/airflow.cfg",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("secret")
    paths = [str(tmp_path / name) for name in names]
    attack.run(f"""{TELL}
found = [path for path in {paths!r} if os.path.exists(path)]
for where, _, files in os.walk({str(tmp_path)!r}):
    found += [name for name in files if name in {names!r}]
for path in ("/etc/shadow", "/etc/passwd", "/root/.ssh", {str(Path(__file__))!r}):
    found += [path] if os.path.exists(path) else []
tell(found)""")
    assert (attack.told() == []) is is_boxed


def test_it_sees_no_process_of_ours_and_so_no_environment(
    attack: Attack, is_boxed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack.run(f"""{TELL}
numbers = [name for name in os.listdir("/proc") if name.isdecimal()]
tell([number for number in numbers if b"-m\\0pytest" in open(f"/proc/{{number}}/cmdline", "rb").read()])
""")
    assert (attack.told() == []) is is_boxed


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server.getsockname()[1]


def test_it_reaches_no_address(attack: Attack, listener: int, is_boxed: bool, tmp_path: Path) -> None:
    """Neither MLflow and Airflow on this machine, nor the supervisor's socket, nor anybody outside."""
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(str(tmp_path / "s.sock"))
        control.listen()
        attack.run(f"""{TELL}
import socket
said = []
addresses = (("127.0.0.1", {listener}), {str(tmp_path)!r} + "/s.sock")
for family, address in zip((socket.AF_INET, socket.AF_UNIX), addresses):
    try:
        with socket.socket(family) as peer:
            peer.settimeout(5)
            peer.connect(address)
            said.append(str(address))
    except OSError:
        pass
tell(said)""")
    assert len(attack.told()) == (0 if is_boxed else 2)


def test_what_leaves_its_session_ends_with_it(attack: Attack, is_boxed: bool, tmp_path: Path) -> None:
    flag = f"{os.getpid()}{tmp_path.name}"
    attack.run(f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", {flag!r}], start_new_session=True)
""")
    left = [pid for pid in _all() if flag in _words(pid)]
    assert bool(left) is not is_boxed
    for pid in left:
        os.kill(pid, 9)


def test_it_writes_nowhere_but_into_its_folder(attack: Attack, is_boxed: bool, tmp_path: Path) -> None:
    places = [
        str(tmp_path / "x"),
        str(attack.model / "model.pkl"),
        str(attack.script),
        f"{sys.prefix}/slipway-x",
    ]
    attack.run(f"""{TELL}
written = []
for place in {places!r}:
    try:
        open(place, "ab").close()
        written.append(place)
    except OSError:
        pass
tell(written)""")
    Path(sys.prefix, "slipway-x").unlink(missing_ok=True)
    # Its /tmp is a folder of its own.
    told = attack.told()
    assert (tmp_path / "x").exists() is not is_boxed
    assert ([place for place in told if place != str(tmp_path / "x")] == []) is is_boxed


@pytest.mark.parametrize(
    ("code", "limits", "why"),
    [
        (FILL.format("os.environ['HOME'] + '/f'"), {"disk_mb": 64}, "64 MB"),
        (FILL.format("'/dev/shm/f'"), {"disk_mb": 64}, "64 MB"),
        (FILL.format("'/tmp/f'"), {"disk_mb": 64}, "64 MB"),
        (
            "import time\nfor _ in range(4):\n  if not os.fork():\n"
            "    kept = bytearray(os.urandom(1 << 20)) * 100\n    time.sleep(600)\ntime.sleep(600)",
            {"memory_mb": 256},
            "256 MB of memory",
        ),
        ("import time\nwhile True:\n  if not os.fork(): time.sleep(600)", {}, "256 processes"),
    ],
    ids=["disk", "shared memory", "tmp", "memory of many", "processes"],
)
def test_it_takes_no_more_than_it_may(attack: Attack, code: str, limits: dict[str, Any], why: str) -> None:
    with pytest.raises(Permanent, match=why):
        attack.run(f"import os\n{code}", **limits)
    assert eventually(lambda: not [pid for pid in descendants(os.getpid()) if "load.py" in _words(pid)])


def test_it_makes_no_namespace_and_no_mount_of_its_own(attack: Attack) -> None:
    attack.run(f"""{TELL}
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
tell([libc.mount(b"none", b"/tmp", b"tmpfs", 0, None), libc.unshare(0x20000)])""")
    assert attack.told() == [-1, -1]


@pytest.mark.parametrize(
    ("marks", "said"),
    [
        ((), r"AppArmor allows(?s:.*)uid map(?s:.*)remedy: sudo apt(?s:.*)bwrap-userns-restrict(?s:.*)=off"),
        # Its own apt-get would change nothing of the host's kernel.
        ((Path("/"),), r"container's(?s:.*)apparmor=unconfined(?s:.*)on its host: sudo apt(?s:.*)=off"),
    ],
    ids=["machine", "container"],
)
def test_where_there_is_no_sandbox_nothing_runs_and_the_way_to_have_one_is_said(
    attack: Attack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marks: tuple[Path, ...], said: str
) -> None:
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(sandbox, "_bwrap", lambda: str(refusing))
    restricted = tmp_path / "restricted"
    restricted.write_text("1\n")
    monkeypatch.setattr(sandbox, "_APPARMOR", restricted)
    monkeypatch.setattr(sandbox, "_CONTAINER", marks)
    sandbox.require.cache_clear()
    try:
        with pytest.raises(NoSandbox, match=said):
            attack.run("open('ran', 'w')")
    finally:
        sandbox.require.cache_clear()
    assert not list(tmp_path.rglob("ran"))


def test_an_environment_of_copies_sees_the_python_that_it_was_made_of(tmp_path: Path) -> None:
    """Else it took the system's library for its own, or found none."""
    environment, made_of = tmp_path / "environment", tmp_path / "python"
    (environment / "bin").mkdir(parents=True)
    python = environment / "bin" / "python"
    python.touch()
    (environment / "pyvenv.cfg").write_text(f"home = {made_of / 'bin'}\nversion = 3.11.7\n")
    (made_of / "bin").mkdir(parents=True)
    boxed = sandbox.command(["true"], sandbox.Room(tmp_path, (), python), {})
    assert str(made_of) in boxed


def _all() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
