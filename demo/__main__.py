"""`./slipway demo`: four real model versions go to users under traffic, and a bad one comes back."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.table import Table

from demo.acts import SCENARIOS, Scenario, scenario
from demo.claims import check_claims
from demo.evidence import read_releases
from demo.packages import PACKAGES
from demo.perform import Performance
from demo.place import fresh_home
from demo.report import Report, print_report
from demo.screen import screen
from demo.stage import stage
from demo.traffic_log import TrafficLog
from demo.view import ActView, View
from model_store.registry import Registry
from serving.cli.output import console, errors, print_json, telling_failures
from serving.cli.stack import addresses
from serving.credentials import credentials_of
from serving.home import Home
from serving.supervision.supervisor import Supervisor

HELP = f"Which story to play: {', '.join(SCENARIOS)}. All but risk fetch their data once (docs/scenarios.md)."

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def demo(
    scenario_name: Annotated[str, typer.Option("--scenario", help=HELP)] = "risk",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up at the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Four versions of a model travel from MLflow to users, and two of them do not get far."""
    with telling_failures(as_json=as_json):
        played = scenario(scenario_name)
        home = fresh_home(spec=played.spec)
        _tell_terms(played)
        try:
            report = _perform(home, played, keep=keep, quiet=as_json)
            if as_json:
                print_json(report.as_json() | (addresses(home) if keep else {}))
            else:
                print_report(console, report)
        finally:
            # Also after a failure: then there is all the more to look at.
            if keep and not as_json:
                _say_what_is_kept(home)
    if not report.holds:
        raise typer.Exit(1)


def _tell_terms(played: Scenario) -> None:
    """Asking for a scenario is asking for its data, on the terms of whoever made them."""
    for package in PACKAGES[played.name]:
        if package.terms:
            errors.print(package.terms, soft_wrap=True, markup=False, highlight=False)


def _perform(home: Home, played: Scenario, *, keep: bool, quiet: bool) -> Report:
    began = time.monotonic()

    def clock() -> float:
        return time.monotonic() - began

    view = View(f"Slipway demo: {played.model}", [ActView(act) for act in played.acts])
    with screen(errors, quiet=quiet) as shown:

        def tell(doing: str) -> None:
            view.doing, view.now = doing, clock()
            shown.show(view)

        with stage(home, played, tell, keep=keep) as standing:
            standing.set_up()
            acts = Performance(standing, view, shown.show, clock=clock).play()
            standing.stop_traffic()
            tell("reading the evidence")
            log = TrafficLog.read(standing.traffic_log)
            releases = read_releases(home, played.model, acts, log)
            champion = Registry(home.mlflow_url).aliases(played.model).get("champion")
    claims = check_claims(played, releases, champion, log)
    return Report(releases, claims, log, clock())


def _say_what_is_kept(home: Home) -> None:
    if not Supervisor(home).is_running():
        return
    found = addresses(home)
    login = credentials_of(home)
    rows = Table.grid(padding=(0, 2))
    rows.add_row("Airflow", str(found["airflow"]), f"{login.airflow_user} / {login.airflow_password}")
    rows.add_row("MLflow", str(found["mlflow"]))
    rows.add_row("Gateway", str(found["gateway"]), "POST /v2/models/<model>/infer")
    rows.add_row("End it with", f"SLIPWAY_HOME={home.root} ./slipway down")
    console.print("\nThe stack is still up:", rows)


if __name__ == "__main__":
    app(prog_name="slipway demo")
