"""users, webhooks, keys, preview-token, proxies: who may log in to this installation, with which secret
MLflow speaks to it, and who may ask through the gateway's Envoys.
"""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from serving.cli.output import Json, console, print_json, telling_failures
from serving.credentials import credentials_of, write_secret
from serving.home import Home
from serving.local_stack import airflow_config, users
from serving.types import RateLimit

if TYPE_CHECKING:
    from serving.gateway.delivery.base import Proxy
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


users_app = typer.Typer(help="Who may log in to this installation.", no_args_is_help=True)
User = Annotated[str, typer.Argument(help="The account's name.")]


@users_app.command("add")
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


@users_app.command("remove")
def remove_user(name: User, as_json: Json = False) -> None:
    """End an account."""
    with telling_failures(as_json=as_json):
        _remove(Home.locate(), name, as_json=as_json)


@users_app.command("list")
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


webhooks_app = typer.Typer(help="What MLflow tells Slipway, and with which secret.", no_args_is_help=True)


@webhooks_app.command("sync")
def sync_webhooks(
    test: Annotated[
        bool, typer.Option("--test", help="Let MLflow send a delivery that starts nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Register the webhook in MLflow, or bring it up to date. `up` does it, too."""
    with telling_failures(as_json=as_json):
        _sync(Home.locate(), test=test, as_json=as_json)


@webhooks_app.command("rotate")
def rotate_webhooks(as_json: Json = False) -> None:
    """Sign with a new secret from now on. Deliveries with the old one are taken for 15 minutes more."""
    with telling_failures(as_json=as_json):
        _rotate(Home.locate(), as_json=as_json)


_STYLES = {"SYNCED": "green", "STALE": "yellow", "NACK": "red"}


def proxies(home: Home, *, as_json: bool) -> None:
    """Print them."""
    from serving import composition

    found = composition.proxies_of(home)
    if as_json:
        print_json({"delivery": home.delivery, "proxies": [each.to_json() for each in found]})
        return
    if not found:
        console.print("No Envoy is there.")
        return
    console.print(_table(found))


def preview_headers(home: Home, model: str, *, minutes: float, as_json: bool) -> None:
    """For curl's -H, a line each."""
    from serving.gateway import preview
    from serving.gateway.candidate import ARM

    shown = preview.token(home, model, seconds=60 * minutes, who=getpass.getuser())
    headers = {ARM: "candidate", preview.TOKEN_HEADER: shown}
    if as_json:
        print_json(headers)
        return
    for name, value in headers.items():
        console.print(f"{name}: {value}", soft_wrap=True, highlight=False)


def _table(found: list[Proxy]) -> Table:
    rows = Table("envoy", "state", "version", "routes", "since", "", box=None, header_style="bold")
    for each in found:
        style = _STYLES.get(each.state, "dim")
        since = each.since.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        state = f"[{style}]{each.state}[/]"
        rows.add_row(each.id, state, each.version or "-", str(len(each.revisions)), since, each.words)
    return rows


keys_app = typer.Typer(help="Who may ask models that want API keys (`api_keys`).", no_args_is_help=True)
Client = Annotated[str, typer.Argument(help="The client's name, as logs and limits know it.")]


@keys_app.command("add")
def add_key(
    name: Client,
    rate: Annotated[float, typer.Option(help="Requests a second, of all models; 0: no limit.")] = 0,
    burst: Annotated[float, typer.Option(help="Requests at once; 0: one second's worth.")] = 0,
    as_json: Json = False,
) -> None:
    """Make a key and print it. A client that has one keeps it beside the new one, until `remove --older`."""
    from serving.gateway import api_keys, authentication

    with telling_failures(as_json=as_json):
        home = Home.locate()
        key = api_keys.add_key(home, name, api_keys.limit_of(rate, burst))
        authentication.publish(home)
        if as_json:
            print_json({"client": name, "key": key})
        else:
            console.print(key, soft_wrap=True)


@keys_app.command("remove")
def remove_keys(
    name: Client,
    older: Annotated[bool, typer.Option("--older", help="All but its newest key.")] = False,
    as_json: Json = False,
) -> None:
    """End a client's keys: the gateway answers them 401 within a second."""
    from serving.gateway import api_keys, authentication

    with telling_failures(as_json=as_json):
        home = Home.locate()
        count = api_keys.remove(home, name, but_newest=older)
        authentication.publish(home)
        if as_json:
            print_json({"client": name, "removed": count})
        else:
            console.print(f"{count} {'key' if count == 1 else 'keys'} of {name} removed.")


@keys_app.command("list")
def list_clients(as_json: Json = False) -> None:
    """Show every client, how many keys it has, and its limit. Keys are not shown."""
    from serving.gateway import api_keys

    with telling_failures(as_json=as_json):
        clients = api_keys.clients_of(Home.locate())
        rows = [(c.name, len(c.keys), c.limit) for c in clients]
        if as_json:
            print_json([{"client": n, "keys": k, **_limit(limit)} for n, k, limit in rows])
            return
        table = Table("client", "keys", "limit", box=None, header_style="bold")
        for name, count, limit in rows:
            words = f"{limit.per_second:g} a second, {limit.burst} at once" if limit else "none"
            table.add_row(name, str(count), words)
        console.print(table)


def _limit(limit: RateLimit | None) -> dict[str, float]:
    return {"per_second": limit.per_second, "burst": limit.burst} if limit else {}
