"""The commands of `slipway keys`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from serving.cli.options import Json
from serving.cli.output import console, print_json, telling_failures
from serving.gateway import api_keys, authentication
from serving.home import Home
from serving.types import RateLimit

commands = typer.Typer(help="Who may ask models that want API keys (`api_keys`).", no_args_is_help=True)
Client = Annotated[str, typer.Argument(help="The client's name, as logs and limits know it.")]


@commands.command("add")
def add_key(
    name: Client,
    rate: Annotated[float, typer.Option(help="Requests a second, of all models; 0: no limit.")] = 0,
    burst: Annotated[float, typer.Option(help="Requests at once; 0: one second's worth.")] = 0,
    as_json: Json = False,
) -> None:
    """Make a key and print it. A client that has one keeps it beside the new one, until `remove --older`."""
    with telling_failures(as_json=as_json):
        home = Home.locate()
        key = api_keys.add_key(home, name, api_keys.limit_of(rate, burst))
        authentication.publish(home)
        if as_json:
            print_json({"client": name, "key": key})
        else:
            console.print(key, soft_wrap=True)


@commands.command("remove")
def remove_keys(
    name: Client,
    older: Annotated[bool, typer.Option("--older", help="All but its newest key.")] = False,
    as_json: Json = False,
) -> None:
    """End a client's keys: the gateway answers them 401 within a second."""
    with telling_failures(as_json=as_json):
        home = Home.locate()
        count = api_keys.remove(home, name, but_newest=older)
        authentication.publish(home)
        if as_json:
            print_json({"client": name, "removed": count})
        else:
            console.print(f"{count} {'key' if count == 1 else 'keys'} of {name} removed.")


@commands.command("list")
def list_clients(as_json: Json = False) -> None:
    """Show every client, how many keys it has, and its limit. Keys are not shown."""
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
