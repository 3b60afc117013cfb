"""proxies, preview-token, keys: the gateway's Envoys, and who may ask through them."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from serving.cli.output import Json, console, print_json, telling_failures
from serving.home import Home
from serving.types import RateLimit

if TYPE_CHECKING:
    from serving.gateway.delivery.base import Proxy

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


key_commands = typer.Typer(help="Who may ask models that want API keys (`api_keys`).", no_args_is_help=True)
Client = Annotated[str, typer.Argument(help="The client's name, as logs and limits know it.")]


@key_commands.command("add")
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


@key_commands.command("remove")
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


@key_commands.command("list")
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
