"""`./slipway test`: the checks of the code, then what a person tests. With arguments: pytest alone.

`.ci/run` runs that and then, each by its name, what takes more time or needs more than every machine has:

    --at-length    the page in a browser, webhooks, a stack whose parts are killed and models of many kinds,
                   each through a whole stack; what starts many processes: models with Pythons of their own,
                   stages and controllers that are killed; models of libraries that are downloaded first
    --torch        models of torch, each in an environment with it: gigabytes, made once for a run
    --installed    what pip installs from the package index
    --docker       docker-compose.yaml and the platform `docker`, in a Docker Engine
    --kubernetes   pods on a real cluster
    --brief        what is asked of every Python besides the one that runs all: every module is imported, the
                   DAGs are parsed, the pod keeps the protocol, and a version is released
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from model_store.installation import ROOT as REPOSITORY
from tests.outcomes import Outcomes, closing_lines, run_tests, slowest_lines
from tests.tools import TOOLS, fetch

CHECKS = {
    "style": (sys.executable, "-m", "ruff", "check", "."),
    "format": (sys.executable, "-m", "ruff", "format", "--check", "."),
    "types": (sys.executable, "-m", "mypy", "--num-workers=auto"),
    "imports": (str(Path(sys.executable).with_name("lint-imports")),),
}

# A third of the time tests wait for a process they have started, so one more runs than there are cores.
WORKERS = min((os.cpu_count() or 1) + 1, 8)
AT_ONCE = (f"-n{WORKERS}", "--dist=worksteal")

# Fast ones first; a failure in the code shows before the stack is started. Airflow has processes of its own:
# once imported, it is in every module that a library walks through, and it reads its settings only once.
TESTS = (
    ("tests/unit", "tests/contract", "tests/zoo", "tests/attacks", *AT_ONCE, "-m", "not at_length"),
    ("tests/airflow", *AT_ONCE),
    # What pip installs, with what is here already; from the package index it is CI's.
    ("tests/packaging", "-m", "not empty_environment"),
    # One stack keeps two cores busy.
    ("tests/e2e", "-m", "not at_length"),
)
AT_LENGTH = "--at-length"
TIERS = {
    AT_LENGTH: (
        ("tests/unit", "tests/contract", "tests/zoo", *AT_ONCE, "-m", "at_length"),
        ("tests/e2e", "-m", "at_length"),
    ),
    "--installed": (("tests/packaging", "-m", "empty_environment"),),
    "--torch": (("tests/torch_zoo",),),
    "--docker": (("tests/docker",),),
    "--kubernetes": (("tests/kubernetes",),),
    "--brief": (
        ("tests/contract", "-m", "not at_length or every_python"),
        ("tests/airflow", "-m", "every_python"),
        ("tests/e2e", "-m", "every_python"),
    ),
}

console = Console(highlight=False)


def main(arguments: list[str]) -> int:
    """Exit status of the first check that fails, else of the tests."""
    os.chdir(REPOSITORY)
    os.environ["PYTHONPATH"] = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'plugins'}"
    if len(arguments) == 1 and arguments[0] in TIERS:
        if arguments[0] == AT_LENGTH:
            _fetch_tools()
        return _run_all(TIERS[arguments[0]])
    if arguments:
        return _run("tests", (sys.executable, "-m", "pytest", *arguments))
    for name, command in CHECKS.items():
        if status := _run(name, command):
            return status
    _fetch_tools()
    return _run_all(TESTS)


def _fetch_tools() -> None:
    if missing := [tool.name for tool in TOOLS if tool.path() is None]:
        console.rule(
            f"[bold]fetching[/bold]  {', '.join(missing)}, what can be had without root", align="left"
        )
        fetch()


def _run_all(groups: tuple[tuple[str, ...], ...]) -> int:
    outcomes, took = Outcomes(), []
    for group in groups:
        if not outcomes.interrupted:
            began = time.monotonic()
            outcomes.add(run_tests(lambda command: _run("tests", command), *group))
            took.append(f"{time.monotonic() - began:5.0f} s  {shlex.join(group)}")
    console.rule("[bold]what took how long[/bold]", align="left")
    console.print(*took, *slowest_lines(outcomes), sep="\n", markup=False, soft_wrap=True)
    console.rule("[bold]what was tested[/bold]", align="left")
    console.print(*closing_lines(outcomes), sep="\n", markup=False, soft_wrap=True)
    return outcomes.status


def _run(name: str, command: tuple[str, ...]) -> int:
    console.rule(f"[bold]{name}[/bold]  {escape(shlex.join(command))}", align="left")
    started = time.monotonic()
    status = _wait(subprocess.Popen(command))
    # pytest closes with a summary of its own, which has to stay the last line.
    if status and name != "tests":
        console.print(f"[bold red]{name} failed[/bold red] after {time.monotonic() - started:.0f} s")
    return status


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C reaches the tests too: they end what they have started, so they are waited for."""
    interruption = None
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt as pressed:
            interruption = pressed
    if interruption:
        raise interruption
    return status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
