"""One model's process: started, asked, and started again when it ends or hangs."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_store import NO_TELEMETRY, sandbox
from model_store.engines.errors import ModelFault, RefusedByModel, Unavailable
from model_store.engines.python import wire
from model_store.errors import Permanent

log = logging.getLogger("slipway.pod")

Array = np.ndarray[Any, Any]
Json = dict[str, Any]

WORKER = Path(__file__).with_name("worker.py")
# Imports of torch and a large model's weights, from a cold disk.
LOAD_SECONDS = 300.0
_LONGEST_PAUSE_SECONDS = 30.0
_MEMORY_SECONDS = 0.5
# From the end of its connection to its own.
_LAST_SECONDS = 1.0


class Ended(Exception):  # noqa: N818 - becomes a ModelFault with what the batch has to do with it
    """The process ended, or had to be ended, before it answered."""


class Worker:
    """A process that has loaded the model in `folder`. `seconds`: what an answer may take.

    It runs in the sandbox. `may_be_unboxed`: or without one, where the machine has none: for bytes that were
    built in one, judged and signed. Raises `Permanent` with the model's own words when it cannot load it.
    """

    def __init__(
        self, python: Path, folder: Path, *, threads: int, seconds: float, may_be_unboxed: bool = False
    ) -> None:
        self._seconds, self._may_be_unboxed = seconds, may_be_unboxed
        self._home = tempfile.mkdtemp(prefix="slipway-model-")
        self._peer, self._lifeline, self._child = self._spawn(python, folder, threads)
        self._is_fresh, self._lock = True, threading.Lock()
        try:
            told, _ = self._exchange(None, [], LOAD_SECONDS)
        except Ended as error:
            self.close()
            raise _unloadable(str(error)) from error
        if "problem" in told:
            self.close()
            raise _unloadable(told["problem"])

    @property
    def pid(self) -> int:
        return int(self._child.pid)

    def ask(self, header: Json, arrays: Sequence[Array]) -> tuple[Json, list[Array]]:
        """One answer. Raises `Ended`, after which this worker is of no use. The first may take as long as
        loading: some libraries begin with it.
        """
        limit = LOAD_SECONDS if self._is_fresh else self._seconds
        answered = self._exchange(header, arrays, limit)
        self._is_fresh = False
        return answered

    def wait(self) -> None:
        """Until the process has ended."""
        self._child.wait()

    def has_ended(self, seconds: float) -> bool:
        """Whether it ends within so long."""
        try:
            self._child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()

    def close(self) -> None:
        """`kill`, and leave nothing behind. Also from another thread than the one that asks."""
        self.kill()
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._peer.close()
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self._lifeline = -1
        shutil.rmtree(self._home, ignore_errors=True)

    def memory_bytes(self) -> int:
        """Resident, of all that it is; 0 once it has ended."""
        return sum(map(sandbox.resident_bytes, sandbox.descendants(self._child.pid)))

    def _exchange(
        self, header: Json | None, arrays: Sequence[Array], seconds: float
    ) -> tuple[Json, list[Array]]:
        try:
            with self._lock:
                self._peer.settimeout(seconds)
                if header is not None:
                    wire.send(self._peer, header, list(arrays))
                return wire.receive(self._peer)
        except TimeoutError as error:
            self.kill()
            raise Ended(f"it did not answer within {seconds:g} s and was ended") from error
        except (OSError, EOFError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=_LAST_SECONDS)
            status = self._child.poll()
            self.kill()
            raise Ended(_how(None if status is None else sandbox.signalled(status))) from error

    def _spawn(self, python: Path, folder: Path, threads: int) -> tuple[socket.socket, int, Any]:
        # Without byte code files: the model's code lies in a bundle, where every file is accounted for.
        ours, theirs = socket.socketpair()
        ends, lifeline = os.pipe()
        try:
            child = subprocess.Popen(
                self._boxed(
                    python,
                    [str(python), "-IB", str(WORKER), str(theirs.fileno()), str(ends), str(folder)],
                    (WORKER.parent, folder),
                ),
                cwd=self._home,
                env=_environment(self._home, threads),
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), ends),
                start_new_session=True,
            )
        except OSError as error:
            os.close(lifeline)
            ours.close()
            raise Permanent(f"{python} cannot be started: {error}", remedy="start the pod again") from error
        finally:
            theirs.close()
            os.close(ends)
        return ours, lifeline, child

    def _boxed(self, python: Path, argv: list[str], readable: tuple[Path, ...]) -> list[str]:
        if self._may_be_unboxed and not sandbox.is_off() and not sandbox.works():
            log.warning("there is no sandbox here: the model's code runs with the rights of this pod")
            return argv
        return sandbox.command(argv, sandbox.Room(Path(self._home), readable, python, gpus=True))


class ModelProcess:
    """A worker that is there again soon after it ended. `ask` from one thread at a time.

    `restarts`: how often it ended by itself, or was ended for hanging or for having more than
    `max_memory_bytes` (0: any). Raises `Permanent` when it has more than that as soon as it is loaded.
    """

    def __init__(self, start: Callable[[], Worker], *, max_memory_bytes: int = 0) -> None:
        self._start, self._closed, self._most = start, threading.Event(), max_memory_bytes
        self.restarts = 0
        self._worker: Worker | None = self._within_limit(start())
        threading.Thread(target=self._watch, args=(self._worker,), name="model", daemon=True).start()

    @property
    def is_up(self) -> bool:
        """Whether it would answer now."""
        return self._worker is not None

    def ask(self, header: Json, arrays: Sequence[Array]) -> list[Array]:
        """What the model answers. Raises `RefusedByModel`, `ModelFault`, or `Unavailable` while it is being
        started again.
        """
        worker = self._worker
        if worker is None:
            raise Unavailable(
                "the model's process ended and is being started again", remedy="try again later"
            )
        try:
            told, answers = worker.ask(header, arrays)
        except Ended as error:
            self._worker = None
            raise ModelFault(f"the model's process failed at this batch: {error}") from error
        if "refused" in told:
            raise RefusedByModel(
                f"the model refuses this input: {told['refused']}", remedy="check the values"
            )
        if "failed" in told:
            raise ModelFault(f"the model failed: {told['failed']}")
        return answers

    def names(self, header: Json, arrays: Sequence[Array]) -> tuple[str, dict[str, Array]]:
        """All that it answers, by its own names, and in which form it did. Raises as `ask`."""
        worker = self._worker
        if worker is None:
            raise Unavailable("the model's process ended", remedy="try again later")
        try:
            told, answers = worker.ask({**header, "outputs": None}, arrays)
        except Ended as error:
            self._worker = None
            raise ModelFault(f"the model's process failed: {error}") from error
        if wrong := told.get("refused") or told.get("failed"):
            raise ModelFault(wrong)
        return told["form"], dict(zip(told["outputs"], answers, strict=True))

    def memory_bytes(self) -> int:
        """Of the worker that is there."""
        worker = self._worker
        return worker.memory_bytes() if worker is not None else 0

    def close(self) -> None:
        """End it for good."""
        self._closed.set()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _within_limit(self, worker: Worker) -> Worker:
        """Else it would be ended and started again for ever."""
        held = worker.memory_bytes()
        if not self._most or held <= self._most:
            return worker
        worker.close()
        raise Permanent(
            f"the model's process has {held // 1_000_000} MB as soon as it is loaded, and"
            f" serving.max_memory_mb allows {self._most // 1_000_000}",
            remedy="raise serving.max_memory_mb in the spec, or leave it out, and release the version again",
        )

    def _watch(self, worker: Worker) -> None:
        """On a thread of its own: wait for the end, and begin again."""
        while True:
            self._until_it_ended(worker)
            self._worker = None
            if self._closed.is_set():
                return
            worker.close()
            self.restarts += 1
            log.error("the model's process ended (%d times so far) and is started again", self.restarts)
            again = self._started()
            if again is None:
                return
            worker = self._worker = again
            if self._closed.is_set():
                worker.close()

    def _until_it_ended(self, worker: Worker) -> None:
        """A leak ends here, before the machine's memory does."""
        while self._most and not worker.has_ended(_MEMORY_SECONDS):
            if (held := worker.memory_bytes()) > self._most:
                log.error("the model's process has %d MB and is ended", held // 1_000_000)
                worker.kill()
        worker.wait()

    def _started(self) -> Worker | None:
        """A new worker, after pauses that grow while it cannot load; None when closed meanwhile."""
        pause = 0.0
        while not self._closed.wait(pause):
            try:
                return self._start()
            except Permanent as error:
                log.error("the model cannot be loaded again: %s", error.problem)
                pause = min(max(2 * pause, 1.0), _LONGEST_PAUSE_SECONDS)
        return None


def _unloadable(why: str) -> Permanent:
    return Permanent(
        f"the model cannot be loaded in its own environment: {why}",
        remedy="try mlflow.pyfunc.load_model in a fresh environment with the model's requirements.txt; what"
        " is missing there belongs into pip_requirements or code_paths when it is logged",
    )


def _how(status: int | None) -> str:
    if status is None:
        return "it closed its connection"
    if status >= 0:
        return f"it exited with status {status}"
    with contextlib.suppress(ValueError):
        return f"it was ended by {signal.Signals(-status).name}"
    return f"it was ended by signal {-status}"


def _environment(home: str, threads: int) -> dict[str, str]:
    """No tokens, passwords or addresses of ours."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    counts = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
    fixed = {"PATH": os.defpath, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    return (
        kept | counts | fixed | NO_TELEMETRY | {"MLFLOW_TRACKING_URI": f"file://{home}", "MPLCONFIGDIR": home}
    )
