"""`./slipway demo`: four real model versions go to users under traffic, and a bad one comes back."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.acts import SCENARIOS, Scenario, scenario
from demo.claims import check_claims
from demo.clients import Platform, Registry
from demo.cluster import (
    IMAGES,
    NAMESPACE,
    ClusterOptions,
    environment_file,
    put_spec,
    spec_of,
    standing_in_cluster,
)
from demo.command import slipway
from demo.evidence import read_releases
from demo.packages import PACKAGES
from demo.perform import Performance
from demo.place import DemoHome, fresh_home, is_running
from demo.report import Report, print_report
from demo.screen import screen
from demo.stage import Stage, stage
from demo.traffic_log import TrafficLog
from demo.view import ActView, View
from model_store.errors import Permanent, Retryable, SlipwayError

HELP = f"Which story to play: {', '.join(SCENARIOS)}. All but risk fetch their data once (docs/scenarios.md)."

# What `slipway status --json` says of where the stack answers, and its login. Of Envoys that are elsewhere it
# says no counters.
ADDRESSES = ("airflow", "mlflow", "gateway", "envoy_stats", "home", "login")

console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def demo(
    scenario_name: Annotated[str, typer.Option("--scenario", help=HELP)] = "risk",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up at the end.")] = False,
    in_cluster: Annotated[
        bool,
        typer.Option("--kubernetes", help="Experimental: all but Airflow and MLflow in kubectl's cluster."),
    ] = False,
    images: Annotated[str, typer.Option(help="With --kubernetes: where they are.")] = IMAGES,
    namespace: Annotated[str, typer.Option(help="With --kubernetes.")] = NAMESPACE,
    node: Annotated[str, typer.Option(help="With --kubernetes: a node that sees this machine's files.")] = "",
    rate: Annotated[
        float | None, typer.Option(min=1, help="Requests a second.", show_default="the scenario's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Four versions of a model travel from MLflow to users, and two of them do not get far."""
    with _telling_failures(as_json=as_json):
        played = scenario(scenario_name)
        played = replace(played, rate=rate or played.rate)
        options = ClusterOptions(images, namespace, node) if in_cluster else None
        home = fresh_home(spec=spec_of(played) if options else played.spec)
        _tell_terms(played)
        try:
            report = perform(home, played, keep=keep, quiet=as_json, cluster=options)
            if as_json:
                _print_json(report.as_json() | (_addresses() if keep else {}))
            else:
                print_report(console, report)
        finally:
            # Also after a failure: then there is all the more to look at.
            if keep and not as_json and is_running():
                _say_what_is_kept(home)
    if not report.holds:
        raise typer.Exit(1)


@contextmanager
def _telling_failures(*, as_json: bool) -> Iterator[None]:
    """As every command of Slipway's tells them: the problem, the remedy, and exit status 1."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        errors.print("\nInterrupted.")
        raise typer.Exit(130) from interrupt
    except (SlipwayError, httpx.HTTPError, OSError) as error:
        told = error if isinstance(error, SlipwayError) else _of_the_stack(error)
        if as_json:
            said = {"problem": told.problem, "remedy": told.remedy, "retryable": isinstance(told, Retryable)}
            _print_json({"error": said})
        else:
            errors.print(Text(told.problem, style="bold red"), soft_wrap=True)
            errors.print(Text.assemble(("  remedy: ", "bold"), told.remedy), soft_wrap=True)
        raise typer.Exit(1) from error


def _of_the_stack(error: Exception) -> SlipwayError:
    if isinstance(error, httpx.HTTPError):
        return Retryable(f"a server of the stack: {error!r}", remedy="Read its log, and run the demo again.")
    return Permanent(str(error), remedy="Look at the folder's rights and the disk's space.")


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")


def _addresses() -> dict[str, Any]:
    said = slipway("status")
    return {name: said[name] for name in ADDRESSES if name in said}


def _tell_terms(played: Scenario) -> None:
    """Asking for a scenario is asking for its data, on the terms of whoever made them."""
    for package in PACKAGES[played.name]:
        if package.terms:
            errors.print(package.terms, soft_wrap=True, markup=False, highlight=False)


def perform(
    home: DemoHome,
    played: Scenario,
    *,
    keep: bool,
    quiet: bool,
    kind: type[Stage] = Stage,
    cluster: ClusterOptions | None = None,
) -> Report:
    """The whole story on a stage of this kind, with pods in `cluster` if given, and what it proved."""
    began = time.monotonic()

    def clock() -> float:
        return time.monotonic() - began

    view = View(f"Slipway demo: {played.model}", [ActView(act) for act in played.acts])
    with screen(errors, quiet=quiet) as shown:

        def tell(doing: str) -> None:
            view.doing, view.now = doing, clock()
            shown.show(view)

        with ExitStack() as ending:
            if cluster:
                put_spec(home, played)
                home = ending.enter_context(standing_in_cluster(home, played, cluster, tell, keep=keep))
            standing = ending.enter_context(stage(home, played, tell, keep=keep, kind=kind))
            standing.set_up()
            with (
                closing(Platform(home.airflow_url, **_addresses()["login"])) as platform,
                closing(Registry(home.mlflow_url)) as registry,
            ):
                acts = Performance(standing, platform, registry, view, shown.show, clock=clock).play()
                standing.stop_traffic()
                tell("reading the evidence")
                log = TrafficLog.read(standing.traffic_log)
                releases = read_releases(platform, registry, played.model, acts, log)
                champion = registry.champion(played.model)
    claims = check_claims(played, releases, champion, log)
    return Report(releases, claims, log, clock())


def _say_what_is_kept(home: DemoHome) -> None:
    found = _addresses()
    rows = Table.grid(padding=(0, 2))
    rows.add_row("Airflow", found["airflow"], f"{found['login']['user']} / {found['login']['password']}")
    rows.add_row("MLflow", found["mlflow"])
    rows.add_row("Gateway", found["gateway"], "POST /v2/models/<model>/infer")
    rows.add_row("End it with", f"SLIPWAY_HOME={found['home']} ./slipway down")
    if environment_file(home).exists():
        rows.add_row("In the cluster", f"kubectl delete namespace {NAMESPACE}", "ends that half")
        rows.add_row("In a shell", f". {environment_file(home)}", "lets ./slipway speak to it")
    console.print("\nThe stack is still up:", rows)


if __name__ == "__main__":
    app(prog_name="slipway demo")
