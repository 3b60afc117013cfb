"""`./slipway ledger`: a copy of it while everything runs, back from one, and whether the trail is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model_store.errors import Permanent
from serving.cli.output import Json, console, print_json, telling_failures
from serving.home import Home

commands = typer.Typer(help="The ledger: what Slipway knows, and who did what.", no_args_is_help=True)


@commands.command("backup")
def back_up(
    target: Annotated[Path, typer.Argument(help="A file on the controller's machine; it is replaced.")],
    as_json: Json = False,
) -> None:
    """Copy all of it, as of one moment, while everything goes on. The controller writes the copy."""
    from serving.control.client import ControllerClient

    with telling_failures(as_json=as_json):
        head = ControllerClient(Home.locate()).back_up(target.absolute())
        if as_json:
            print_json({"target": str(target.absolute()), **head})
        else:
            console.print(f"{target.absolute()}: {head['number']} acts, the last with hash {head['hash']}")


@commands.command("restore")
def restore(
    source: Annotated[Path, typer.Argument(help="What `backup` wrote.", exists=True, dir_okay=False)],
    as_json: Json = False,
) -> None:
    """Put a backup of SQLite where the ledger is to be. The controller has to be stopped, and the file of
    before moved away. Of PostgreSQL: docs/ledger.md."""
    from serving import composition

    with telling_failures(as_json=as_json):
        home = Home.locate()
        _refuse_beside_a_controller(home)
        path = composition.restore_ledger(home, source)
        if as_json:
            print_json({"ledger": str(path)})
        else:
            console.print(f"{path} is as {source} was; start the controller: `./slipway up`")


@commands.command("verify")
def verify(
    number: Annotated[int | None, typer.Option(help="Of a head that was kept elsewhere.")] = None,
    hash: Annotated[str, typer.Option("--hash", help="Of the same head.")] = "",
    as_json: Json = False,
) -> None:
    """Compute the trail's hashes anew, and say the last one: keep it elsewhere, and give it here later."""
    from serving.control.client import ControllerClient

    with telling_failures(as_json=as_json):
        head = ControllerClient(Home.locate()).verify_audit(number, hash)
        if as_json:
            print_json(head)
        else:
            console.print(f"{head['number']} acts, none of them changed; the last has hash {head['hash']}")


def _refuse_beside_a_controller(home: Home) -> None:
    from serving.control.client import ControllerClient, ControllerDown

    try:
        ControllerClient(home).is_there()
    except ControllerDown:
        return
    raise Permanent(
        "the controller runs, and has the ledger open", remedy="stop it: `./slipway down`, then restore"
    )
