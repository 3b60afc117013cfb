"""The demo's processes: the local stack, the training, the traffic. What is started here is ended here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from demo.acts import Scenario
from demo.command import COMMAND, environment, slipway
from demo.fetch import fetch
from demo.packages import PACKAGES
from demo.place import DemoHome
from demo.traffic import TIMEOUT_SECONDS
from model_store.errors import Permanent

FAULTS = "SLIPWAY_FAULTS"
POLL_SECONDS = 0.5
# A cold start takes half a minute; on a machine busy with other things it may take much longer.
START_SECONDS = 400
TRAINING_SECONDS = 400
READY_SECONDS = 60

Tell = Callable[[str], None]


@dataclass
class Stage:
    """`tell` hears what is being waited for. Start the traffic once a version serves."""

    home: DemoHome
    scenario: Scenario
    tell: Tell
    _traffic: subprocess.Popen[bytes] | None = None
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def traffic_log(self) -> Path:
        return self.home.data / "traffic.csv"

    @property
    def has_traffic(self) -> bool:
        return self._traffic is not None

    def set_up(self) -> None:
        """Train while the stack starts, and return when it is healthy and every version is registered.

        Raises `Permanent` when either does not come to its end.
        """
        self.home.logs.mkdir(parents=True, exist_ok=True)
        for package in PACKAGES[self.scenario.name]:
            fetch(package, self.home.cache, self.tell)
        self._let_pods_fail()
        training = self._start(self.scenario.training, *(str(act.version) for act in self.scenario.acts))
        self._bring_up()
        deadline = time.monotonic() + TRAINING_SECONDS
        while training.poll() is None:
            self.tell("training and registering the versions")
            _wait(
                deadline, f"the versions were not registered within {TRAINING_SECONDS} s", self._log(training)
            )
        if training.returncode != 0:
            raise Permanent("the versions could not be trained", remedy=f"Read {self._log(training)}.")

    def _let_pods_fail(self) -> None:
        # Pods take it from supervisord, which takes it from here.
        os.environ[FAULTS] = self.scenario.faults

    def start_traffic(self) -> None:
        """Begin sending, as soon as the gateway says that the model is ready."""
        url = f"{self.home.gateway_url}/v2/models/{self.scenario.model}/ready"
        deadline = time.monotonic() + READY_SECONDS
        while not _is_ok(url):
            self.tell("waiting until the first version answers through Envoy")
            _wait(deadline, f"{url} is not ready", self.home.logs / "envoy.log")
        places = ("--gateway", self.home.gateway_url, "--data", self.home.data, "--log", self.traffic_log)
        asked = (*places, "--scenario", self.scenario.name, "--rate", self.scenario.rate)
        self._traffic = self._start(f"{__package__}.traffic", *map(str, asked))

    def require_traffic(self) -> None:
        """Raises `Permanent` when the traffic ended by itself."""
        if self._traffic is not None and self._traffic.poll() is not None:
            raise Permanent("the traffic ended by itself", remedy=f"Read {self._log(self._traffic)}.")

    def stop_traffic(self) -> None:
        """Let every request on its way be answered, and the log be finished."""
        if self._traffic is not None:
            _end([self._traffic])
            self._traffic = None

    def tear_down(self, *, keep: bool) -> None:
        """End everything but what `keep` keeps: the stack."""
        _end(self._started)
        if not keep:
            self.tell("stopping the stack")
            self._take_down()

    def _take_down(self) -> None:
        slipway("down")

    def _bring_up(self) -> None:
        """`slipway up`, each line of which says what is up. Raises `Permanent` in its own words."""
        process = subprocess.Popen(
            [*COMMAND, "up", "--timeout", str(START_SECONDS)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._started.append(process)
        said = list[str]()
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                said.append(line.decode().rstrip())
                self.tell(f"starting the stack: {said[-1].strip()}")
        if process.wait() != 0:
            told = [line for line in said if not line.endswith((": healthy", ": backoff", ": fatal"))]
            problem, _, remedy = "\n".join(told).rpartition("\n  remedy: ")
            raise Permanent(
                f"the stack does not start: {problem.strip()}", remedy=remedy or f"Read {self.home.logs}."
            )

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        # In a session of its own: an interrupt in the terminal is for the demo, which then ends the rest.
        with (self.home.logs / f"{module}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def _log(self, process: subprocess.Popen[bytes]) -> Path:
        arguments: Sequence[object] = process.args  # type: ignore[assignment]
        return self.home.logs / f"{arguments[2]}.log"


class StandingStack(Stage):
    """The stack is up, somebody else's, and stays: docker-compose.yaml's."""

    def _let_pods_fail(self) -> None:
        # Where pods are containers, this file says what SLIPWAY_FAULTS would.
        (self.home.root / "faults").write_text(self.scenario.faults)

    def _bring_up(self) -> None:
        return

    def _take_down(self) -> None:
        return


@contextmanager
def stage(
    home: DemoHome, scenario: Scenario, tell: Tell, *, keep: bool, kind: type[Stage] = Stage
) -> Iterator[Stage]:
    """A stage that is torn down whatever happens on it, also when the demo is interrupted or told to end."""
    made = kind(home, scenario, tell)
    with _interruptible():
        try:
            yield made
        finally:
            made.tear_down(keep=keep)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: with everything put away."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(TIMEOUT_SECONDS + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(deadline: float, problem: str, log: Path) -> None:
    if time.monotonic() > deadline:
        raise Permanent(problem, remedy=f"Read {log}.")
    time.sleep(POLL_SECONDS)


def _is_ok(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False, timeout=2).is_success
    return False
