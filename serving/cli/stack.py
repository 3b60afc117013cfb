"""up, down, status, addresses, doctor: the local stack, and what is wrong with it or with this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from model_store.errors import Permanent, Retryable, SlipwayError
from serving import composition
from serving.cli.output import console, errors, print_json
from serving.control.page_url import people_urls, releases_page
from serving.credentials import credentials_of
from serving.home import Home
from serving.local_stack import elsewhere, lifecycle
from serving.local_stack.apis import slipway_api
from serving.local_stack.doctor import Diagnosis, Level, examine
from serving.local_stack.lifecycle import ProgramStatus, Watcher
from serving.supervision.processes import owned_by, proportional_memory_bytes
from serving.types import Arm, Counts

_API_SERVER = "airflow-api-server"


def up(home: Home, *, timeout_seconds: float, as_json: bool) -> None:
    """Start the stack, show each component come up, and say where everything is."""
    started = time.monotonic()
    with _progress("starting", quiet=as_json) as watch:
        was_started = lifecycle.up(home, watch, timeout_seconds=timeout_seconds)
    seconds = time.monotonic() - started
    if as_json:
        print_json({"started": was_started, "seconds": round(seconds, 1), **addresses(home)})
        return
    console.print(f"Slipway is up ({seconds:.0f} s)." if was_started else "Slipway was up already.")
    _print_addresses(home, _login(home))


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
    is_here = not elsewhere.are_elsewhere()
    standings = lifecycle.program_statuses(home) if is_here else elsewhere.statuses(home)
    memory = _memory_by_program(home) if is_here else {}
    unwell = [standing.name for standing in standings if standing.problem]
    # One that does not answer is not waited for again.
    still = None if _API_SERVER in unwell else _blockers(home)
    releases = list(counts_by_release(home))
    if as_json:
        programs = [_as_dict(standing, memory) for standing in standings]
        told = {"healthy": not unwell, "programs": programs, "releases": releases, "standing_still": still}
        print_json({**told, **addresses(home)})
        raise typer.Exit(1 if unwell else 0)
    console.print(_table(standings, memory) if is_here else _table_elsewhere(standings))
    _print_addresses(home, _login(home))
    if releases:
        console.print(releases_table(releases))
    _print_blockers(still)
    if unwell:
        log = f"{home.logs}/<name>.log" if is_here else "its log: docker compose logs NAME"
        raise Retryable(f"not healthy: {', '.join(unwell)}", remedy=f"Wait a moment, or read {log}.")


def tell_addresses(home: Home, *, as_json: bool) -> None:
    """Where everything answers when it is up: in JSON for programs of this machine, else for people. Nothing
    has to run, and no password is told."""
    if as_json:
        urls = {"airflow": home.airflow_url, "mlflow": home.mlflow_url, "gateway": home.gateway_url}
        print_json({**urls, "page": releases_page(home), "home": str(home.root)})
    else:
        _print_addresses(home)


def addresses(home: Home) -> dict[str, object]:
    """Where people and programs reach the stack, and the login of Airflow."""
    credentials = credentials_of(home)
    stats = {} if elsewhere.are_elsewhere() else {"envoy_stats": home.envoy_stats_url}
    return {
        **people_urls(home),
        **stats,
        "home": str(home.root),
        "login": {"user": credentials.airflow_user, "password": credentials.airflow_password},
    }


def _print_addresses(home: Home, login: str = "") -> None:
    rows = Table.grid(padding=(0, 2))
    urls = people_urls(home)
    rows.add_row("Airflow", urls["airflow"], login)
    rows.add_row("MLflow", urls["mlflow"])
    rows.add_row("Gateway", urls["gateway"], "POST /v2/models/<model>/infer")
    if not elsewhere.are_elsewhere():
        rows.add_row("Envoy's counters", f"{home.envoy_stats_url}/stats/prometheus")
    rows.add_row("Data and logs", str(home.root))
    console.print(rows)


def _login(home: Home) -> str:
    credentials = credentials_of(home)
    return f"{credentials.airflow_user} / {credentials.airflow_password}"


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


def _table_elsewhere(standings: list[ProgramStatus]) -> Table:
    """Processes, ages and memory are known to whoever keeps them alive."""
    table = Table("component", "health", box=None, header_style="bold")
    for standing in standings:
        table.add_row(standing.name, _health(standing))
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


OUTCOMES = ("answered", "refused", "malformed", "failed")


def counts_by_release(home: Home) -> Iterator[dict[str, Any]]:
    """By release: its phase, and counts by arm since it began. What cannot be read is left out, and all of
    it while the controller does not answer."""
    journal = composition.journal_of(home)
    with suppress(SlipwayError):
        for state in journal.active():
            record = journal.latest_record(state.release_id)
            arms = {Arm.STABLE: record.stable, Arm.CANDIDATE: record.candidate} if record else {}
            counts = {arm.value: _outcomes(each) for arm, each in arms.items()}
            yield {"release_id": state.release_id, "phase": state.phase.value, **counts}


def releases_table(releases: Iterable[dict[str, Any]]) -> Table:
    """A row for each arm of each release."""
    rows = Table("release", "phase", "arm", *OUTCOMES, box=None, header_style="bold")
    for release in releases:
        for arm in (arm.value for arm in Arm if arm.value in release):
            counts = [f"{release[arm][outcome]:,}" for outcome in OUTCOMES]
            rows.add_row(release["release_id"], release["phase"], arm, *counts)
    return rows


def _outcomes(counts: Counts) -> dict[str, int]:
    found = (counts.answered, counts.refused, counts.malformed, counts.errors)
    return dict(zip(OUTCOMES, found, strict=True))


_LEVEL_STYLES = {Level.FINE: "green", Level.WARNING: "yellow", Level.BROKEN: "bold red"}


def doctor(home: Home, *, as_json: bool) -> None:
    """Print every diagnosis with its remedy. Raises `Permanent` (in JSON: exits 1) if something is broken."""
    diagnoses = examine(home)
    broken = [diagnosis for diagnosis in diagnoses if diagnosis.level is Level.BROKEN]
    if as_json:
        print_json({"healthy": not broken, "diagnoses": [asdict(diagnosis) for diagnosis in diagnoses]})
        raise typer.Exit(1 if broken else 0)
    console.print(_diagnoses_table(diagnoses))
    if broken:
        subjects = ", ".join(dict.fromkeys(diagnosis.subject for diagnosis in broken))
        raise Permanent(f"broken: {subjects}", remedy="Each line above says its own.")


def _diagnoses_table(diagnoses: list[Diagnosis]) -> Table:
    table = Table.grid(padding=(0, 2))
    for diagnosis in diagnoses:
        words = Text(diagnosis.found)
        if diagnosis.remedy:
            words.append(f"\nremedy: {diagnosis.remedy}", style="bold")
        table.add_row(
            Text(diagnosis.level.value, style=_LEVEL_STYLES[diagnosis.level]), diagnosis.subject, words
        )
    return table
