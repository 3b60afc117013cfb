"""up, down, status: the local stack."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from model_store.errors import Retryable, SlipwayError
from serving.cli.arm_counts import counts_by_release
from serving.cli.arm_counts import table as table_of_releases
from serving.cli.output import console, errors, print_json
from serving.credentials import credentials_of
from serving.home import Home
from serving.local_stack import lifecycle
from serving.local_stack.lifecycle import ProgramStatus, Watcher
from serving.local_stack.slipway_api import slipway_api
from serving.supervision.processes import owned_by, proportional_memory_bytes

_API_SERVER = "airflow-api-server"


def up(home: Home, *, as_json: bool) -> None:
    """Start the stack, show each component come up, and say where everything is."""
    started = time.monotonic()
    with _progress("starting", quiet=as_json) as watch:
        was_started = lifecycle.up(home, watch)
    seconds = time.monotonic() - started
    if as_json:
        print_json({"started": was_started, "seconds": round(seconds, 1), **addresses(home)})
        return
    console.print(f"Slipway is up ({seconds:.0f} s)." if was_started else "Slipway was up already.")
    _print_addresses(home)


def down(home: Home, *, as_json: bool) -> None:
    """End every process of the stack."""
    with _progress("stopping", quiet=as_json) as watch:
        count = lifecycle.down(home, watch)
    if as_json:
        print_json({"ended_processes": count})
    else:
        console.print(f"Slipway is down ({count} processes ended)." if count else "Slipway was not running.")


def status(home: Home, *, as_json: bool) -> None:
    """Every program, its health and memory, what releases under way did with requests, and what stands still.

    Raises `Retryable` (in JSON: exits 1) if a program is unhealthy.
    """
    standings, memory = lifecycle.program_statuses(home), _memory_by_program(home)
    unwell = [standing.name for standing in standings if standing.problem]
    # One that does not answer is not waited for again.
    still = None if _API_SERVER in unwell else _blockers(home)
    releases = list(counts_by_release(home))
    if as_json:
        programs = [_as_dict(standing, memory) for standing in standings]
        told = {"healthy": not unwell, "programs": programs, "releases": releases, "standing_still": still}
        print_json({**told, **addresses(home)})
        raise typer.Exit(1 if unwell else 0)
    console.print(_table(standings, memory))
    _print_addresses(home)
    if releases:
        console.print(table_of_releases(releases))
    _print_blockers(still)
    if unwell:
        raise Retryable(
            f"not healthy: {', '.join(unwell)}", remedy=f"Wait a moment, or read {home.logs}/<name>.log."
        )


def addresses(home: Home) -> dict[str, object]:
    """Where people and programs reach the stack, and the login of Airflow."""
    credentials = credentials_of(home)
    return {
        "airflow": home.airflow_url,
        "mlflow": home.mlflow_url,
        "gateway": home.gateway_url,
        "envoy_admin": home.envoy_admin_url,
        "home": str(home.root),
        "login": {"user": credentials.airflow_user, "password": credentials.airflow_password},
    }


def _print_addresses(home: Home) -> None:
    credentials = credentials_of(home)
    rows = Table.grid(padding=(0, 2))
    rows.add_row("Airflow", home.airflow_url, f"{credentials.airflow_user} / {credentials.airflow_password}")
    rows.add_row("MLflow", home.mlflow_url)
    rows.add_row("Gateway", home.gateway_url, "POST /v2/models/<model>/infer")
    rows.add_row("Envoy admin", home.envoy_admin_url)
    rows.add_row("Data and logs", str(home.root))
    console.print(rows)


def _blockers(home: Home) -> list[dict[str, Any]] | None:
    """What does not go on by itself, as the API tells it; None while it does not answer."""
    try:
        with slipway_api(home) as api:
            found: list[dict[str, Any]] = api.get("/standing-still")
    except SlipwayError:
        return None
    return found


def _print_blockers(still: list[dict[str, Any]] | None) -> None:
    if still is None:
        console.print("What stands still is not known: Airflow does not answer.")
    for one in still or ():
        name = one["release_id"] or one["model"] or "every model"
        console.print(Text.assemble((f"{name}: ", "bold"), f"{one['words']}."), soft_wrap=True)
        console.print(Text.assemble(("  to go on: ", "bold"), one["way_out"]), soft_wrap=True)


def _as_dict(standing: ProgramStatus, memory: dict[str, int]) -> dict[str, object]:
    return {
        "name": standing.name,
        "state": standing.state,
        "pid": standing.pid,
        "healthy": standing.problem is None,
        "problem": standing.problem,
        "started_at": standing.started_at,
        "memory_bytes": memory.get(standing.name, 0),
    }


def _memory_by_program(home: Home) -> dict[str, int]:
    memory: dict[str, int] = {}
    for owned in owned_by(home):
        memory[owned.program] = memory.get(owned.program, 0) + proportional_memory_bytes(owned.process)
    return memory


def _table(standings: list[ProgramStatus], memory: dict[str, int]) -> Table:
    table = Table("program", "state", "pid", "up", "memory", "health", box=None, header_style="bold")
    for standing in standings:
        table.add_row(
            standing.name,
            standing.state.lower(),
            str(standing.pid or ""),
            _duration(time.time() - standing.started_at) if standing.pid else "",
            f"{memory.get(standing.name, 0) / 2**20:.0f} MB",
            _health(standing),
        )
    table.add_row("together", "", "", "", f"{sum(memory.values()) / 2**20:.0f} MB", "")
    return table


def _health(standing: ProgramStatus) -> Text:
    return Text(standing.problem, style="red") if standing.problem else Text("healthy", style="green")


def _duration(seconds: float) -> str:
    minutes, hours = seconds // 60, seconds // 3600
    return f"{hours:.0f} h" if hours else f"{minutes:.0f} min" if minutes else f"{seconds:.0f} s"


@contextmanager
def _progress(verb: str, *, quiet: bool) -> Iterator[Watcher]:
    """A live list on a terminal; elsewhere one line when a component is there, or gone, or in trouble."""
    if quiet:
        yield lifecycle.watch_nothing
    elif errors.is_terminal:
        with Live(console=errors, transient=True, refresh_per_second=8) as live:
            yield lambda standings: live.update(_checklist(verb, standings))
    else:
        goal, said = "healthy" if verb == "starting" else "stopped", set[tuple[str, str]]()
        yield lambda standings: _print_changes(standings, goal, said)


def _checklist(verb: str, standings: list[ProgramStatus]) -> Table:
    table = Table.grid(padding=(0, 1))
    for standing in standings:
        is_done = standing.problem is None and standing.state != "STOPPING"
        mark = Text("ok", style="green") if is_done else Text("..", style="yellow")
        table.add_row(mark, standing.name, Text(standing.problem or standing.state.lower(), style="dim"))
    table.add_row("", Text(f"{verb} ...", style="bold"))
    return table


def _print_changes(standings: list[ProgramStatus], goal: str, said: set[tuple[str, str]]) -> None:
    for standing in standings:
        is_healthy = standing.state == "RUNNING" and not standing.problem
        now = "healthy" if is_healthy else standing.state.lower()
        if now in (goal, "backoff", "fatal") and (standing.name, now) not in said:
            said.add((standing.name, now))
            errors.print(f"  {standing.name}: {now}")
