"""Starts local stacks the way a user does, and ends them without leaving a process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from demo.clients import DagRun, Platform, Registry
from demo.data import Parts
from demo.models import MODEL as TRAINED
from demo.traffic import Application, applications

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHER = REPOSITORY / "slipway"
TEST_DAGS = Path(__file__).parent / "dags"
# How processes of a stack are marked (docs/decisions/0050).
MARK = "SLIPWAY_SUPERVISED"
# Lines of a log, which is enough for a sentence and what it follows from.
LAST_WORDS = 30
# Seconds between commands that are waited on: each takes a second of the processor that the stack starts on.
COMMANDS = 3.0


@dataclass
class Stack:
    """One installation and how to speak to it. `environ` is what `./slipway` runs with."""

    root: Path
    environ: dict[str, str]
    seconds_to_start: float = field(default=0.0)

    def slipway(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. The exit status is for the caller to judge."""
        return run([LAUNCHER, *arguments], environ=self.environ, cwd=REPOSITORY, timeout=timeout)

    def slipway_json(self, *arguments: str) -> Any:
        """Run a command that has to succeed, and read its JSON."""
        done = self.slipway(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def start(self) -> None:
        started = time.monotonic()
        done = self.slipway("up")
        assert done.returncode == 0, done.stdout + done.stderr
        self.seconds_to_start = time.monotonic() - started

    def status(self) -> dict[str, Any]:
        """What `./slipway status` says, healthy or not."""
        found: dict[str, Any] = json.loads(self.slipway("status", "--json").stdout)
        return found

    @cached_property
    def addresses(self) -> dict[str, Any]:
        """Where the stack is reached, and the login: they stay when it is started again."""
        return self.status()

    @property
    def gateway_url(self) -> str:
        return str(self.addresses["gateway"])

    @property
    def airflow_url(self) -> str:
        return str(self.addresses["airflow"])

    @property
    def mlflow_url(self) -> str:
        return str(self.addresses["mlflow"])

    @property
    def login(self) -> dict[str, str]:
        """`user` and `password`."""
        return dict(self.addresses["login"])

    @cached_property
    def platform(self) -> Platform:
        return Platform(self.airflow_url, **self.login)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.mlflow_url)

    def close(self) -> None:
        """End what was opened to speak to it; the stack itself goes on."""
        for name in ("platform", "registry"):
            if name in self.__dict__:
                getattr(self, name).close()

    def infer_url(self, model: str) -> str:
        return f"{self.gateway_url}/v2/models/{model}/infer"

    def rows(self) -> list[Application]:
        """Requests that every model of these tests understands."""
        return applications(Parts.under(self.root / "data" / TRAINED).traffic)

    def programs(self) -> dict[str, dict[str, Any]]:
        """The supervised programs by name, with `pid`, `started_at` and `healthy`."""
        return {program["name"]: program for program in self.status()["programs"]}

    def pods(self, model: str) -> list[str]:
        """Names of the model's pods, the youngest last."""
        found = [one for name, one in self.programs().items() if name.startswith(f"pod-{model}-")]
        return [one["name"] for one in sorted(found, key=lambda one: one["started_at"])]

    def kill(self, name: str) -> int:
        """kill -9, as the machine's out-of-memory killer would. Returns the process's id."""
        pid = int(self.programs()[name]["pid"])
        process = psutil.Process(pid)
        process.kill()
        psutil.wait_procs([process], timeout=10)
        return pid

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """The supervisor does not bring it back while this lasts."""
        self._supervisorctl("stop", name)
        try:
            yield
        finally:
            self._supervisorctl("start", name)
            self.wait_until_healthy()

    def _supervisorctl(self, *command: str) -> None:
        program = Path(sys.executable).with_name("supervisorctl")
        configuration = self.root / "run" / "supervisord.conf"
        done = run([program, "-c", configuration, *command], environ=self.environ, cwd=REPOSITORY)
        assert done.returncode == 0, done.stdout + done.stderr

    def wait_until_healthy(self, *, seconds: float = 300) -> None:
        what = "a healthy stack"
        wait_until(lambda: self.slipway("status").returncode == 0, seconds=seconds, what=what, every=COMMANDS)

    def wait_for_dag(self, dag_id: str) -> None:
        wait_until(lambda: dag_id in self.platform.dag_ids(), seconds=120, what=f"the DAG {dag_id}")

    def run_dag(self, dag_id: str, *, seconds: float = 120, conf: Mapping[str, Any] | None = None) -> DagRun:
        """Trigger a DAG and wait for its end."""
        return self.wait_for(self.platform.trigger(dag_id, conf or {}), seconds=seconds)

    def wait_for(self, run: DagRun, *, seconds: float = 120) -> DagRun:
        wait_until(lambda: self.platform.run(run).has_ended, seconds=seconds, what=f"the end of {run.dag_id}")
        return self.platform.run(run)

    def why(self, run: DagRun) -> str:
        """Its tasks, and the last lines of the failed ones, as a person would look them up."""
        lines = [f"{run.dag_id} is {self.platform.run(run).state}"]
        for task in self.platform.tasks(run):
            lines.append(f"{task['task_id']}: {task['state']}")
            if task["state"] in ("failed", "up_for_retry"):
                lines += [f"    {line}" for line in self.platform.log(run, task)[-LAST_WORDS:]]
        return "\n".join(lines)

    def processes(self) -> list[psutil.Process]:
        """Every process that the stack has started, whoever its parent is now."""
        return processes_of(self.root)

    def listening(self) -> set[str]:
        """The addresses at which processes of this stack accept connections."""
        ours = {process.pid for process in self.processes()}
        listening = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        return {str(next(iter(c.laddr))) for c in listening if c.pid in ours and c.laddr}

    @property
    def supervisor_pid(self) -> int:
        return int((self.root / "run" / "supervisord.pid").read_text())

    def kill_supervisor(self) -> None:
        supervisord = psutil.Process(self.supervisor_pid)
        supervisord.kill()
        psutil.wait_procs([supervisord], timeout=10)


def processes_of(root: Path) -> list[psutil.Process]:
    """The processes that carry the mark of the installation in `root`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == str(root):
                found.append(process)
    return found


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
        stack.close()
        stack.slipway("down")
        assert stack.processes() == []


def prepared_stack(root: Path, **environ: str) -> Stack:
    """A stack that is not started yet."""
    own = {
        "SLIPWAY_HOME": str(root),
        "SLIPWAY_PORT_BASE": str(free_port_base()),
        # The repository's DAGs (links), with specs and DAGs of the tests' own.
        "AIRFLOW__CORE__DAGS_FOLDER": str(TEST_DAGS),
        **environ,
    }
    return Stack(root.resolve(), environment(**own))


def environment(**own: str) -> dict[str, str]:
    """A user's: nothing of an Airflow or Slipway that whoever runs the tests has set."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "SLIPWAY_"))}
    # The launcher's environment is the one that the tests run in.
    return {**inherited, **own, "SLIPWAY_VENV": sys.prefix, "PYTHONPATH": str(REPOSITORY)}


def free_port() -> int:
    """One that the system gives to nobody else right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str, every: float = 0.5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(every)
