"""The demo in the stack of docker-compose.yaml: `python -m demo.in_containers`.

Plays the story once in this installation, says what it proved, and then goes on asking the model now and
then, so that there is something to see. Started again it only asks. Ends with 1 where a claim does not hold.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from demo.__main__ import perform
from demo.acts import RISK
from demo.clients import Registry
from demo.place import DemoHome
from demo.report import WIDTH, print_report
from demo.stage import StandingStack
from model_store.errors import Permanent, SlipwayError

# Says to the container's health check that the story was told. Of the container, not of the volume.
TOLD = Path("/tmp/told")  # noqa: S108 - of its own file system
AFTERWARDS_PER_SECOND = 2.0


def play(home: DemoHome) -> None:
    """Raises `Permanent` where the registry is not empty, or a claim does not hold."""
    with closing(Registry(home.mlflow_url)) as registry:
        is_registered = registry.has(RISK.model, 1)
    if is_registered:
        raise Permanent(
            f"MLflow has versions of {RISK.model} already, and the story begins with none",
            remedy="docker compose down --volumes forgets everything, and the demo begins anew",
        )
    console = Console(width=WIDTH)
    console.print(f"Watch it at {home.page}", soft_wrap=True)
    report = perform(home, RISK, keep=True, quiet=False, kind=StandingStack)
    print_report(console, report)
    if not report.holds:
        raise Permanent("not everything that the demo claims held", remedy="the report above says what")
    report_file(home).write_text(report.truth())


def report_file(home: DemoHome) -> Path:
    """There once the story was told."""
    return home.data / "demo-told.txt"


def go_on_asking(home: DemoHome) -> NoReturn:
    asked = ("--gateway", home.gateway_url, "--data", home.data, "--log", os.devnull)
    rate = ("--rate", AFTERWARDS_PER_SECOND)
    os.execv(sys.executable, [sys.executable, "-m", f"{__package__}.traffic", *map(str, (*asked, *rate))])


def main() -> None:
    home = DemoHome.of()
    if not report_file(home).exists():
        play(home)
    TOLD.touch()
    login = "docker compose exec airflow-api-server cat /run/slipway/login"
    print(f"All of it is at {home.page}; who may log in: {login}", flush=True)  # noqa: T201 - it is the log
    go_on_asking(home)


if __name__ == "__main__":
    try:
        main()
    except SlipwayError as problem:
        sys.exit(f"error: {problem}")
