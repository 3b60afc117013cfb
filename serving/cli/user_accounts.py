"""users: who may log in to this installation."""

from __future__ import annotations

import httpx
from rich.table import Table

from serving.cli.output import console, print_json
from serving.credentials import credentials_of
from serving.home import Home
from serving.local_stack import airflow_config, users
from serving.supervision.supervisor import Supervisor

_API_SERVER = "airflow-api-server"


def add(home: Home, name: str, role: str, password: str | None, *, as_json: bool) -> None:
    """Make an account, and say its password once if it was made here."""
    user = users.add(home, name, role, password)
    restarts = _take_effect(home)
    if as_json:
        made = {} if password else {"password": user.password}
        print_json({"user": user.name, "role": user.role, "restarted": restarts, **made})
        return
    console.print(f"{user.name} may log in to {home.airflow_url} as {user.role}.")
    if password is None:
        console.print(f"Password: {user.password}   (it is not shown again)")
    _say(home, restarts)


def remove(home: Home, name: str, *, as_json: bool) -> None:
    """End an account: its logins do not count any more."""
    users.remove(home, name)
    restarts = _take_effect(home)
    if as_json:
        print_json({"removed": name, "restarted": restarts})
        return
    console.print(f"{name} cannot log in any more.")
    _say(home, restarts)


def show(home: Home, *, as_json: bool) -> None:
    """Every account and its role."""
    known = [(credentials_of(home).airflow_user, "admin"), *((u.name, u.role) for u in users.users_of(home))]
    if as_json:
        print_json([{"user": name, "role": role} for name, role in known])
        return
    table = Table("user", "role", box=None, header_style="bold")
    for name, role in known:
        table.add_row(name, role)
    console.print(table)


def _take_effect(home: Home) -> bool:
    """Airflow reads its accounts when it starts: write them, and restart it if it runs."""
    airflow_config.write(home, credentials_of(home))
    supervisor = Supervisor(home)
    if not supervisor.is_running():
        return False
    for program in supervisor.programs():
        if program.name == _API_SERVER and program.state in ("RUNNING", "STARTING"):
            supervisor.restart(program.full_name)
            return True
    return False


def _say(home: Home, restarts: bool) -> None:
    if restarts:
        console.print("Airflow's API server restarts to know of it: give it some seconds.")
    elif _answers(home):
        console.print(
            "Airflow reads its accounts when it starts, and is not ours to restart here. "
            "Restart its API server: docker compose restart airflow-api-server"
        )


def _answers(home: Home) -> bool:
    """Whether Airflow runs, whoever keeps it alive."""
    try:
        with httpx.Client(base_url=home.airflow_url, timeout=3, trust_env=False) as client:
            return client.get("/api/v2/version").is_success
    except httpx.HTTPError:
        return False
