from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from model_store.errors import Permanent, Retryable
from serving.home import Home, Ports
from serving.local_stack.lifecycle import down
from serving.supervision import supervisor
from serving.supervision.processes import owned_by
from serving.supervision.supervisor import Supervisor, socket_path


def home_at(root: Path) -> Home:
    home = Home(root, Ports())
    for folder in (home.run, home.logs, home.pods):
        folder.mkdir(parents=True)
    return home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    # Deeper than a socket's path may be long, and with a space in it.
    home = home_at(tmp_path / "a rather long way down" / ("deep" * 20))
    yield home
    down(home)
    assert owned_by(home) == []


def program(home: Home, name: str, command: str) -> None:
    path = home.pods / ".programs" / f"{name}.conf"
    path.parent.mkdir(exist_ok=True)
    path.write_text(supervisor.program_section(name, command, home.logs / f"{name}.log"))


def state_of(home: Home, name: str) -> str:
    return next((p.state for p in Supervisor(home).programs() if p.name == name), "absent")


def wait_for(home: Home, name: str, state: str) -> None:
    deadline = time.monotonic() + 20
    while state_of(home, name) != state:
        assert time.monotonic() < deadline, f"{name} is {state_of(home, name)}, not {state}"
        time.sleep(0.05)


def test_the_socket_is_in_the_home_where_its_path_is_short_enough() -> None:
    assert socket_path(Home(Path("/h"), Ports())) == Path("/h/run/supervisor.sock")


def test_long_homes_have_short_sockets_of_their_own(tmp_path: Path) -> None:
    deep = [Home(tmp_path / ("deep" * 30) / name, Ports()) for name in "ab"]
    paths = [socket_path(home) for home in deep]
    assert len(set(paths)) == 2
    assert all(len(os.fsencode(path)) < 100 for path in paths)


def test_a_program_is_added_stopped_started_and_removed_and_all_of_it_twice(home: Home) -> None:
    supervisor.configure(home, [])
    supervisor.start(home)
    control = Supervisor(home)
    program(home, "sleeper", "sleep 60")
    for _ in range(2):
        control.add_group("sleeper")
    wait_for(home, "sleeper", "RUNNING")
    for _ in range(2):
        control.stop("sleeper:sleeper")
    wait_for(home, "sleeper", "STOPPED")
    for _ in range(2):
        control.start("sleeper:sleeper")
    wait_for(home, "sleeper", "RUNNING")
    for _ in range(2):
        control.remove_group("sleeper")
    assert control.programs() == []


def test_programs_on_disk_start_with_the_supervisor(home: Home) -> None:
    program(home, "sleeper", "sleep 60")
    supervisor.configure(home, [])
    supervisor.start(home)
    wait_for(home, "sleeper", "RUNNING")


def test_without_a_supervisor_every_call_says_how_to_start_it(tmp_path: Path) -> None:
    control = Supervisor(home_at(tmp_path / "home"))
    assert not control.is_running()
    for call in (control.pid, control.programs, control.shut_down, lambda: control.add_group("x")):
        with pytest.raises(Retryable, match="slipway up"):
            call()


def test_a_supervisor_that_cannot_start_says_why(tmp_path: Path) -> None:
    home = home_at(tmp_path / "home")
    supervisor.configure(home, [])
    config = supervisor.configuration_path(home)
    config.write_text(config.read_text() + "\n[program:broken]\nnumprocs=many\n")
    with pytest.raises(Permanent, match="broken"):
        supervisor.start(home)


def test_what_supervisord_is_told_to_run_is_there() -> None:
    _, flag, module, *arguments = shlex.split(supervisor.launch_command("pod", "fraud", "blue"))
    assert (flag, arguments) == ("-m", ["pod", "fraud", "blue"])
    assert find_spec(module) is not None
