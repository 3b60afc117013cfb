"""users, webhooks: who may log in to this installation, and with which secret MLflow speaks to it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from serving.cli.output import Json, console, print_json, telling_failures
from serving.credentials import credentials_of, write_secret
from serving.home import Home
from serving.local_stack import airflow_config, users

if TYPE_CHECKING:
    from serving.inbound.registration import RegisteredWebhook, TestDelivery


def _add(home: Home, name: str, role: str, password: str | None, *, as_json: bool) -> None:
    """Make an account, and say its password once if it was made here."""
    user = users.add(home, name, role, password)
    _take_effect(home)
    if as_json:
        made = {} if password else {"password": user.password}
        print_json({"user": user.name, "role": user.role, **made})
        return
    console.print(f"{user.name} may log in to {home.airflow_url} as {user.role}.")
    if password is None:
        console.print(f"Password: {user.password}   (it is not shown again)")


def _remove(home: Home, name: str, *, as_json: bool) -> None:
    """End an account: its logins do not count any more."""
    users.remove(home, name)
    _take_effect(home)
    if as_json:
        print_json({"removed": name})
        return
    console.print(f"{name} cannot log in any more.")


def _show(home: Home, *, as_json: bool) -> None:
    """Every account and its role."""
    known = [(credentials_of(home).airflow_user, "admin"), *((u.name, u.role) for u in users.users_of(home))]
    if as_json:
        print_json([{"user": name, "role": role} for name, role in known])
        return
    table = Table("user", "role", box=None, header_style="bold")
    for name, role in known:
        table.add_row(name, role)
    console.print(table)


def _take_effect(home: Home) -> None:
    """Airflow reads its accounts anew (`slipway_airflow.login`)."""
    airflow_config.write(home, credentials_of(home))


accounts = typer.Typer(help="Who may log in to this installation.", no_args_is_help=True)
User = Annotated[str, typer.Argument(help="The account's name.")]


@accounts.command("add")
def add_user(
    name: User,
    role: Annotated[str, typer.Option("--role", help="viewer, releaser, approver, user, op or admin.")],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make an account, or give one another role and password."""
    with telling_failures(as_json=as_json):
        password = sys.stdin.readline().rstrip("\n") if password_stdin else None
        _add(Home.locate(), name, role, password, as_json=as_json)


@accounts.command("remove")
def remove_user(name: User, as_json: Json = False) -> None:
    """End an account."""
    with telling_failures(as_json=as_json):
        _remove(Home.locate(), name, as_json=as_json)


@accounts.command("list")
def list_users(as_json: Json = False) -> None:
    """Show every account and its role."""
    with telling_failures(as_json=as_json):
        _show(Home.locate(), as_json=as_json)


def _sync(home: Home, *, test: bool, as_json: bool) -> None:
    """Register the webhook in MLflow, or bring it up to date. Raises when a test delivery does not arrive."""
    from serving.inbound import registration

    registered = registration.sync(home)
    tried = registration.send_test(home, registered.webhook_id) if test else None
    _say_registered(registered, tried, as_json=as_json)
    if tried:
        registration.require_received(tried)


def _rotate(home: Home, *, as_json: bool) -> None:
    """A new secret, at MLflow and Alertmanager too; the old one is believed a while longer."""
    from serving.inbound import registration, secrets
    from serving.monitoring.incidents import alert_token

    made = secrets.rotate(home, now=datetime.now(UTC))
    registered = registration.sync(home)
    token = home.root / "monitoring" / "alert-token"
    if token.exists():  # Alertmanager reads it anew for each delivery
        write_secret(token, alert_token(made.current))
    if as_json:
        until = made.previous_until.isoformat() if made.previous_until else None
        print_json({"webhook": registered.change, "previous_valid_until": until})
        return
    until_words = f"{made.previous_until:%H:%M:%S} UTC" if made.previous_until else "now"
    console.print(f"MLflow signs with a new secret; the old one is believed until {until_words}.")
    if not token.exists():
        console.print("Where Alertmanager runs with a copy of its token: write it anew (docs/monitoring.md).")


def _say_registered(registered: RegisteredWebhook, tried: TestDelivery | None, *, as_json: bool) -> None:
    if as_json:
        test = {"test": tried.words} if tried else {}
        events = list(registered.events)
        print_json({"webhook": registered.change, "url": registered.url, "events": events, **test})
        return
    console.print(f"MLflow's webhook to {registered.url}: {registered.change}", soft_wrap=True)
    console.print(f"  events: {', '.join(registered.events)}")
    if tried:
        console.print(f"  test delivery: {tried.words}")


webhooks = typer.Typer(help="What MLflow tells Slipway, and with which secret.", no_args_is_help=True)


@webhooks.command("sync")
def sync_webhooks(
    test: Annotated[
        bool, typer.Option("--test", help="Let MLflow send a delivery that starts nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Register the webhook in MLflow, or bring it up to date. `up` does it, too."""
    with telling_failures(as_json=as_json):
        _sync(Home.locate(), test=test, as_json=as_json)


@webhooks.command("rotate")
def rotate_webhooks(as_json: Json = False) -> None:
    """Sign with a new secret from now on. Deliveries with the old one are taken for 15 minutes more."""
    with telling_failures(as_json=as_json):
        _rotate(Home.locate(), as_json=as_json)
