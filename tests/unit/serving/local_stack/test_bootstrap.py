"""`./slipway` before there is an environment: a stand-in for uv makes one and writes down what it did."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from model_store.installation import ROOT as REPOSITORY
from tests.mounts import small_disk

UV = """
echo "$@" >> {log}
case "$1" in
venv) for last; do :; done; {python} -m venv --without-pip "$last" ;;
pip) exec sleep {seconds} ;;
esac
"""


@dataclass
class Clone:
    """A repository with only what the bootstrap touches, and a machine with only Python and perhaps uv."""

    root: Path
    tools: Path

    @property
    def environment(self) -> Path:
        return self.root / ".venv"

    def with_uv(self, *, seconds: float = 0) -> Clone:
        self.tool("uv", UV.format(log=f"'{self.root}/uv.log'", python=sys.executable, seconds=seconds))
        return self

    def installs(self) -> list[str]:
        log = self.root / "uv.log"
        said = log.read_text().splitlines() if log.exists() else []
        return [line for line in said if line.startswith("pip")]

    def tool(self, name: str, script: str) -> None:
        """A program of this name on the machine's PATH."""
        path = self.tools / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        env = {"PATH": f"{self.tools}:/usr/bin:/bin", "HOME": str(self.root), **environ}
        pipe = subprocess.PIPE
        # As a terminal starts it: who runs these tests in the background passes on that Ctrl-C is ignored.
        as_in_terminal = ("env", "--default-signal=INT")
        command: Sequence[str | Path] = [*as_in_terminal, self.root / "slipway", *arguments]
        return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)

    def start_installing(self, *arguments: str) -> subprocess.Popen[str]:
        """Started, and its uv is asleep: a signal to the group misses nothing that is just being forked."""
        process = self.start(*arguments)
        deadline = time.monotonic() + 60
        while "sleep" not in children_of(process):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return process

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environ)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess([], process.returncode, out, err)


def children_of(process: subprocess.Popen[str]) -> list[str]:
    """Their names. They come and go while they are counted."""
    names = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            names.append(child.name())
    return names


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    root, tools = tmp_path / "a clone", tmp_path / "tools"
    for folder in (root / "serving" / "local_stack", root / "serving" / "cli", tools):
        folder.mkdir(parents=True)
    for name in ("slipway", "serving/local_stack/bootstrap.py"):
        (root / name).write_bytes((REPOSITORY / name).read_bytes())
        (root / name).chmod(0o755)
    (root / "serving" / "cli" / "__main__.py").write_text(
        "import sys; print('ran', sys.argv[1:], sys.prefix)"
    )
    (root / "requirements.txt").write_text("one==1\ntwo==2\n")
    (root / "requirements-dev.txt").write_text("three==3\n")
    (tools / "python3").symlink_to(sys.executable)
    return Clone(root, tools)


def test_the_first_run_installs_and_the_second_does_not(clone: Clone) -> None:
    clone.with_uv()
    first, second = clone.run("status", "--json"), clone.run("status", "--json")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "ran ['status', '--json']" in second.stdout
    assert str(clone.environment) in second.stdout
    assert "2 packages with uv" in first.stderr
    assert second.stderr == ""
    assert len(clone.installs()) == 1


def test_changed_requirements_are_installed(clone: Clone) -> None:
    clone.with_uv().run()
    (clone.root / "requirements.txt").write_text("one==1.1\ntwo==2\n")
    clone.run()
    assert len(clone.installs()) == 2


def test_tests_need_more_and_what_they_need_is_kept_up_to_date(clone: Clone) -> None:
    clone.with_uv().run("up")
    assert "requirements-dev.txt" not in clone.installs()[-1]
    clone.run("test")
    assert "requirements-dev.txt" in clone.installs()[-1]
    clone.run("up")
    clone.run("test")
    assert len(clone.installs()) == 2
    (clone.root / "requirements.txt").write_text("one==3\n")
    clone.run("up")
    assert "requirements-dev.txt" in clone.installs()[-1]


def test_an_interrupted_installation_is_started_afresh(clone: Clone) -> None:
    clone.with_uv(seconds=60)
    process = clone.start_installing("up")
    (clone.environment / "half-a-package").mkdir()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    clone.with_uv(seconds=0)
    assert clone.run("up").returncode == 0
    assert not (clone.environment / "half-a-package").exists()


def test_ctrl_c_says_how_to_go_on(clone: Clone) -> None:
    clone.with_uv(seconds=60)
    process = clone.start_installing("up")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Run the same command again" in err
    assert "Traceback" not in err


def test_of_two_at_once_one_installs(clone: Clone) -> None:
    clone.with_uv(seconds=2)
    processes = [clone.start("up") for _ in range(2)]
    ended = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(clone.installs()) == 1
    assert sum("waiting" in err for _, err in ended) == 1


def test_a_broken_environment_is_made_anew(clone: Clone) -> None:
    clone.environment.mkdir()
    (clone.environment / "bin").mkdir()
    (clone.environment / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    (clone.environment / "bin" / "python").chmod(0o755)
    assert clone.with_uv().run("up").returncode == 0


def test_a_failed_installation_says_what_to_check_and_is_tried_again(clone: Clone) -> None:
    clone.with_uv()
    clone.tool("uv", (clone.tools / "uv").read_text().replace("sleep 0", "exit 3"))
    done = clone.run("up")
    assert done.returncode == 1
    assert "remedy: " in done.stderr
    assert "Traceback" not in done.stderr
    clone.with_uv()
    assert clone.run("up").returncode == 0


def test_without_uv_and_venv_the_missing_package_is_named_in_one_line(clone: Clone) -> None:
    # What Debian's Python without python3-venv is like: ensurepip cannot be imported.
    hidden = clone.root / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys; sys.modules['ensurepip'] = None\n")
    without = f"PYTHONPATH={shlex.quote(str(hidden))} exec {sys.executable}"
    clone.tool("python3", f'[ "$1" = -I ] && shift\n{without} "$@"')
    done = clone.run("up")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert done.returncode == 1
    assert f"apt-get install python{version}-venv" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


def test_the_environment_can_be_elsewhere(clone: Clone, tmp_path: Path) -> None:
    done = clone.with_uv().run("up", SLIPWAY_VENV=str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere") in done.stdout
    assert not clone.environment.exists()


def test_a_place_that_takes_no_environment_is_named_with_the_reason(clone: Clone, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        disk.remount("ro")
        done = clone.with_uv().run("status", SLIPWAY_VENV=f"{disk.root}/environment")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"Nothing can be installed into {disk.root}/environment: Read-only file system",
        "  remedy: Make room there and let this account write there, or name another folder by SLIPWAY_VENV.",
    ]


def test_a_python_that_is_there_but_does_not_work_is_passed_over(clone: Clone) -> None:
    clone.tool("python3", "echo 'pyenv: python3: command not found' >&2; exit 127")
    (clone.tools / "python3.12").symlink_to(sys.executable)
    done = clone.with_uv().run("up")
    assert done.returncode == 0
    assert "pyenv" not in done.stderr


def test_a_python_that_is_named_is_used_before_the_one_on_path(clone: Clone) -> None:
    clone.tool("python3", "exit 1")
    assert clone.with_uv().run("up", SLIPWAY_PYTHON=sys.executable).returncode == 0


def test_a_python_that_is_named_and_does_not_work_is_not_passed_over(clone: Clone) -> None:
    done = clone.with_uv().run("up", SLIPWAY_PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "SLIPWAY_PYTHON is /no/such/python" in done.stderr
    assert not clone.environment.exists()


def test_without_any_suitable_python_it_says_which_are(clone: Clone) -> None:
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        clone.tool(name, "exit 1")
    done = clone.run("up")
    assert done.returncode == 1
    assert "3.11, 3.12 or 3.13" in done.stderr
    assert "apt-get install" in done.stderr
