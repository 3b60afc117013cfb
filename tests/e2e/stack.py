"""Starts local stacks the way a user does, and ends them without leaving a process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from serving.home import REPOSITORY, Home
from serving.stack import airflow_config
from serving.stack.airflow_api import AirflowApi, DagRun, airflow_api
from serving.stack.processes import owned_by
from serving.stack.supervisor import ProgramState, Supervisor

TEST_DAGS = Path(__file__).parent / "dags"


@dataclass
class Stack:
    """One installation and how to speak to it. `environ` is what `./slipway` runs with."""

    home: Home
    environ: dict[str, str]
    seconds_to_start: float = field(default=0.0)

    def slipway(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. The exit status is for the caller to judge."""
        command = [sys.executable, "-m", "serving.cli", *arguments]
        return run(command, environ=self.environ, cwd=REPOSITORY, timeout=timeout)

    def slipway_json(self, *arguments: str) -> Any:
        """Run a command that has to succeed, and read its JSON."""
        done = self.slipway(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def airflow(self, *arguments: str) -> None:
        """Run Airflow's own command line, which speaks to its database and asks nobody."""
        environ = {**self.environ, **airflow_config.environment(self.home)}
        done = run([sys.executable, "-m", "airflow", *arguments], environ=environ, cwd=REPOSITORY)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        started = time.monotonic()
        done = self.slipway("up")
        assert done.returncode == 0, done.stdout + done.stderr
        self.seconds_to_start = time.monotonic() - started

    def program(self, name: str) -> ProgramState:
        return next(program for program in Supervisor(self.home).programs() if program.name == name)

    def kill(self, name: str) -> ProgramState:
        """kill -9, as the machine's out-of-memory killer would. Returns what it was."""
        killed = self.program(name)
        process = psutil.Process(killed.pid)
        process.kill()
        psutil.wait_procs([process], timeout=10)
        return killed

    def wait_until_healthy(self, *, seconds: float = 300) -> None:
        wait_until(lambda: self.slipway("status").returncode == 0, seconds=seconds, what="a healthy stack")

    def run_dag(self, dag_id: str, *, seconds: float = 120, conf: dict[str, Any] | None = None) -> DagRun:
        """Trigger a DAG and wait for its end."""
        with airflow_api(self.home) as api:
            return self.wait_for(api, api.trigger(dag_id, conf or {}), seconds=seconds)

    def listening(self) -> set[str]:
        """The addresses at which processes of this stack accept connections."""
        ours = {owned.process.pid for owned in owned_by(self.home)}
        listening = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        return {str(next(iter(c.laddr))) for c in listening if c.pid in ours and c.laddr}

    def kill_supervisor(self) -> None:
        supervisord = psutil.Process(Supervisor(self.home).pid())
        supervisord.kill()
        psutil.wait_procs([supervisord], timeout=10)

    def wait_for(self, api: AirflowApi, run: DagRun, *, seconds: float = 120) -> DagRun:
        wait_until(lambda: api.run(run).has_ended, seconds=seconds, what=f"the end of {run.dag_id}")
        return api.run(run)


def run(
    command: Sequence[str | Path], *, environ: dict[str, str], cwd: Path, timeout: float = 400
) -> subprocess.CompletedProcess[str]:
    """A process's exit status and what it said."""
    return subprocess.run(
        command, env=environ, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )


@contextmanager
def running_stack(root: Path, **environ: str) -> Iterator[Stack]:
    """A started stack with the repository's DAGs and those of this folder."""
    stack = prepared_stack(root, **environ)
    try:
        stack.start()
        yield stack
    finally:
        stack.slipway("down")
        assert owned_by(stack.home) == []


def prepared_stack(root: Path, **environ: str) -> Stack:
    """A stack that is not started yet."""
    own = {
        "SLIPWAY_HOME": str(root),
        "SLIPWAY_PORT_BASE": str(free_port_base()),
        # The repository's DAGs (links), with specs and DAGs of the tests' own.
        "AIRFLOW__CORE__DAGS_FOLDER": str(TEST_DAGS),
        **environ,
    }
    everything = environment(**own)
    return Stack(Home.locate(everything), everything)


def environment(**own: str) -> dict[str, str]:
    """A user's: nothing of an Airflow or Slipway that whoever runs the tests has set."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "SLIPWAY_"))}
    return {**inherited, **own, "PYTHONPATH": str(REPOSITORY)}


def free_port_base() -> int:
    """The first of a hundred neighbouring free ports, below the range that the system gives to clients."""
    for base in range(11_000, 32_000, 100):
        with ExitStack() as opened:
            try:
                for port in (*range(base, base + 6), *range(base + 20, base + 30)):
                    probe = opened.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise AssertionError("no free ports")


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)
