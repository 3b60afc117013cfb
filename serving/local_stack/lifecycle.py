"""Starting, watching and ending the local stack as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import psutil

from model_store.errors import Permanent
from model_store.installation import ROOT
from model_store.locks import locked
from serving.gateway.watches import require_all
from serving.home import Home
from serving.inbound import registration
from serving.local_stack.components import shortcomings, supervised
from serving.local_stack.prepare import prepare
from serving.platforms import pods, redis
from serving.platforms.pods import records
from serving.supervision import supervisor
from serving.supervision.component import START_SECONDS
from serving.supervision.ports import require_free
from serving.supervision.processes import end, owned_by, wait_for_end
from serving.supervision.supervisor import ENDED, RUNNING, ProgramState, Supervisor

POLL_SECONDS = 0.25

# supervisord's format strings and comments, and the database URLs, would read them as something else.
MISREAD_CHARACTERS = "%?#;\"'\\\n"


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    """One program now. `problem` is None when it is healthy."""

    name: str
    state: str
    pid: int
    started_at: int
    problem: str | None


Watcher = Callable[[list[ProgramStatus]], None]


def watch_nothing(standings: list[ProgramStatus]) -> None:
    """For callers that show no progress."""


def up(home: Home, watch: Watcher = watch_nothing, *, timeout_seconds: float = START_SECONDS) -> bool:
    """Start what is not running, wait until everything is healthy, and let MLflow tell Airflow its news.

    False: everything was running already.

    Raises `Permanent` before anything starts if a port is taken or Envoy could not watch every service, and
    afterwards if a component stays down; then what was started is stopped again.
    """
    with locked(home.run / "lifecycle.lock"):
        if Supervisor(home).is_running():
            _require_same_ports(home)
            _require_this_slipway(home)
            started = _start_missing(home, watch, timeout_seconds)
        else:
            with _stopping_on_failure(home):
                _begin(home)
                _wait_until_healthy(home, watch, timeout_seconds)
            started = True
    registration.sync(home)
    return started


def _begin(home: Home) -> None:
    require_plain_paths(home)
    end([owned.process for owned in owned_by(home)], patience_seconds=10)
    require_free({**fixed_ports(home), **_pod_ports(home)})
    require_all(home)
    prepare(home, supervised(home).values())
    supervisor.start(home)


def require_plain_paths(home: Home) -> None:
    """Raises `Permanent` when the home or the code is somewhere that tools would misread."""
    for path in (home.root, ROOT):
        if found := sorted(set(str(path)) & set(MISREAD_CHARACTERS)):
            raise Permanent(
                f"the path {str(path)!r} contains {' '.join(found)}",
                remedy="Choose a directory without it: SLIPWAY_HOME for data, another clone for code.",
            )


def fixed_ports(home: Home) -> dict[str, int]:
    """The ports of the components, by name."""
    return {name: port for name, port in asdict(home.ports).items() if name != "pods_from"}


def _pod_ports(home: Home) -> dict[str, int]:
    """Of deployed pods: routes name these ports, so nobody else may have them."""
    return {
        f"pod of {record.deployment.service}": endpoint.port
        for record in records(home)
        for endpoint in record.deployment.endpoints
    }


@contextmanager
def _stopping_on_failure(home: Home) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _end_everything(home, watch_nothing)
        raise


def _require_same_ports(home: Home) -> None:
    running = Home.locate({"SLIPWAY_HOME": str(home.root)}).ports
    if running != home.ports:
        raise Permanent(
            f"the stack of {home.root} runs on other ports, from {running.airflow} upwards",
            remedy="End it first with ./slipway down, or leave out --port-base and SLIPWAY_PORT_*.",
        )


def _require_this_slipway(home: Home) -> None:
    """Programs are made when the stack begins: one that another version began may not have all of them."""
    lacking = supervised(home).keys() - {program.group for program in Supervisor(home).programs()}
    if lacking:
        raise Permanent(
            f"the stack of {home.root} was started by another version of Slipway: "
            f"it has no {', '.join(sorted(lacking))}",
            remedy="End it with ./slipway down, and start it again; releases go on from where they are.",
        )


def _start_missing(home: Home, watch: Watcher, timeout_seconds: float) -> bool:
    missing = [program for program in Supervisor(home).programs() if program.state in ENDED]
    for program in missing:
        Supervisor(home).start(program.full_name)
    _wait_until_healthy(home, watch, timeout_seconds)
    return bool(missing)


def program_statuses(home: Home) -> list[ProgramStatus]:
    """Every program with its health. Raises `Retryable` when the stack is not running."""
    programs = Supervisor(home).programs()
    problems = shortcomings(home, programs)
    return [
        ProgramStatus(
            program.name, program.state, program.pid, program.started_at, problems[program.full_name]
        )
        for program in programs
    ]


def _wait_until_healthy(home: Home, watch: Watcher, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        now = program_statuses(home)
        watch(now)
        unhealthy = [standing for standing in now if standing.problem and not _only_lacks_a_model(standing)]
        if not unhealthy:
            return
        fatal = [standing for standing in unhealthy if standing.state == "FATAL"]
        if fatal or time.monotonic() > deadline:
            raise _did_not_start(home, (fatal or unhealthy)[0])
        time.sleep(POLL_SECONDS)


def _only_lacks_a_model(standing: ProgramStatus) -> bool:
    """A pod that runs and is not ready: no reason to keep the stack from starting, or to end it."""
    return standing.state == RUNNING and standing.name.startswith(pods.GROUP)


def _did_not_start(home: Home, standing: ProgramStatus) -> Permanent:
    log = home.logs / f"{standing.name}.log"
    last_words = log.read_text(errors="replace").strip().splitlines()[-5:] if log.exists() else []
    return Permanent(
        f"{standing.name} does not become healthy: {standing.problem}\n"
        + "\n".join(f"  | {w}" for w in last_words),
        remedy=f"Read {log}; `./slipway doctor` checks this machine.",
    )


def down(home: Home, watch: Watcher = watch_nothing) -> int:
    """End every process of this home, whoever supervises it; returns how many there were."""
    with locked(home.run / "lifecycle.lock"):
        return _end_everything(home, watch)


def _end_everything(home: Home, watch: Watcher) -> int:
    count = len(owned_by(home))
    if Supervisor(home).is_running():
        _stop_in_order(home, watch)
    end([owned.process for owned in owned_by(home)], patience_seconds=10)
    return count


def _stop_in_order(home: Home, watch: Watcher) -> None:
    """Those who decide first, so that nobody acts on the silence of the rest; then traffic; then the pods."""
    control = Supervisor(home)
    supervisord = psutil.Process(control.pid())
    for stage in (_decides, _carries_traffic, _serves):
        for program in filter(stage, control.programs()):
            if program.state not in ENDED:
                control.stop(program.full_name)
        while any(program.state not in ENDED for program in filter(stage, control.programs())):
            watch(program_statuses_without_health(control))
            time.sleep(POLL_SECONDS)
    control.shut_down()
    wait_for_end([supervisord], timeout_seconds=10)


def program_statuses_without_health(control: Supervisor) -> list[ProgramStatus]:
    return [ProgramStatus(p.name, p.state, p.pid, p.started_at, None) for p in control.programs()]


def _serves(program: ProgramState) -> bool:
    return pods.is_pod(program) or program.group == redis.PROGRAM


def _carries_traffic(program: ProgramState) -> bool:
    return program.group == "envoy"


def _decides(program: ProgramState) -> bool:
    return not _serves(program) and not _carries_traffic(program)
