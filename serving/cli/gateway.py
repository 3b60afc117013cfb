"""`slipway proxies`: each of the gateway's Envoys, and whether it is where the routes are."""

from __future__ import annotations

import getpass

from rich.table import Table

from serving import composition
from serving.cli.output import console, print_json
from serving.gateway import preview
from serving.gateway.candidate import ARM
from serving.gateway.delivery.base import Proxy, ProxyState
from serving.home import Home

_STYLES = {ProxyState.SYNCED: "green", ProxyState.STALE: "yellow", ProxyState.NACK: "red"}


def proxies(home: Home, *, as_json: bool) -> None:
    """Print them."""
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
