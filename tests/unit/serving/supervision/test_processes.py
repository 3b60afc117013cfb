from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving.home import Home, Ports
from serving.supervision.processes import HOME_MARK, PROGRAM_MARK, end, owned_by, proportional_memory_bytes

SLEEP = "import time; time.sleep(60)"
# Starts a sleeper in a session of its own and ends at once, so that the sleeper loses its parent.
ORPHAN = f"""
import subprocess, sys
quiet = dict(start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(subprocess.Popen([sys.executable, "-c", {SLEEP!r}], **quiet).pid)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path, Ports())
    yield home
    end([owned.process for owned in owned_by(home)], patience_seconds=0)


def marked(home: Home, program: str) -> dict[str, str]:
    return {**os.environ, HOME_MARK: str(home.root), PROGRAM_MARK: program}


def start(home: Home, program: str, code: str = SLEEP) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], env=marked(home, program), stdout=subprocess.PIPE, text=True
    )


def test_processes_are_found_by_home_and_program(home: Home, tmp_path: Path) -> None:
    envoy, controller = start(home, "envoy"), start(home, "controller")
    elsewhere = Home(tmp_path / "elsewhere", Ports())
    with start(elsewhere, "envoy") as stranger:
        assert {owned.process.pid for owned in owned_by(home)} == {envoy.pid, controller.pid}
        assert [owned.process.pid for owned in owned_by(home, "controller")] == [controller.pid]
        stranger.kill()
    for process in (envoy, controller):
        process.kill()
        process.communicate()


def test_a_process_without_parent_is_found(home: Home) -> None:
    env = marked(home, "airflow")
    done = subprocess.run([sys.executable, "-c", ORPHAN], env=env, capture_output=True, text=True, check=True)
    assert [owned.process.pid for owned in owned_by(home)] == [int(done.stdout)]


def test_the_caller_and_its_ancestors_are_spared(home: Home) -> None:
    code = f"""
from pathlib import Path
from serving.home import Home, Ports
from serving.supervision.processes import owned_by
print(len(owned_by(Home(Path({str(home.root)!r}), Ports()))))
"""
    env = marked(home, "cli") | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_who_does_not_end_when_asked_is_killed(home: Home) -> None:
    process = start(home, "deaf", STUBBORN)
    assert process.stdout is not None
    process.stdout.readline()
    started = time.monotonic()
    end([psutil.Process(process.pid)], patience_seconds=0.5)
    assert 0.4 < time.monotonic() - started < 10
    assert process.wait() == -9
    process.communicate()


def test_ending_what_has_ended_is_no_error(home: Home) -> None:
    process = start(home, "short", "pass")
    known = psutil.Process(process.pid)
    process.communicate()
    end([known], patience_seconds=1)


def test_memory_is_counted() -> None:
    assert 1e6 < proportional_memory_bytes(psutil.Process()) < 1e11
