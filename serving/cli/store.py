"""store, ledger: how much is in the store, what nothing needs, and the keys that sign bundles; a copy of the
ledger while everything runs, back from one, and whether the trail is whole.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model_store.errors import Permanent
from serving.cli.output import Json, console, print_json, telling_failures
from serving.home import Home

if TYPE_CHECKING:
    from model_store.storage.store import Store


MEGABYTE = 1_000_000


def _show(home: Home, *, as_json: bool) -> None:
    """What could be removed now."""
    from serving import composition
    from serving.control import retention

    policy = retention.Retention.of(home)
    services = composition.wire(home)
    garbage = retention.reclaimable(services, now=datetime.now(UTC))
    bundles, where = sum(1 for _ in services.store.kept("bundles")), _place(services.store)
    if as_json:
        found = {"bundles": len(garbage.bundles), "bytes": garbage.size_bytes}
        kept = {"days": policy.days, "versions": policy.versions}
        print_json({"bundles": bundles, "reclaimable": found, "retention": kept})
        return
    console.print(f"{bundles} {'bundle' if bundles == 1 else 'bundles'} in {where}", soft_wrap=True)
    could = f"{words(garbage.size_bytes, len(garbage.bundles))} could be removed: ./slipway store tidy"
    console.print(could if garbage.size_bytes else "Nothing could be removed.")
    console.print(
        f"Kept: what serves or is on its way, of each model the last {policy.versions} promoted versions, "
        f"and all that is younger than {policy.days:g} days ({home.config}).",
        soft_wrap=True,
    )


def _tidy(home: Home, *, as_json: bool) -> None:
    """Remove what nothing needs. The DAG `store_upkeep` does the same every night."""
    from serving import composition
    from serving.control import retention

    done = retention.tidy(composition.wire(home), now=datetime.now(UTC))
    if as_json:
        print_json(
            {"bundles": list(done.bundles), "artifacts": len(done.artifacts), "bytes": done.size_bytes}
        )
        return
    removed = f"Removed {words(done.size_bytes, len(done.bundles))}."
    console.print(removed if done.size_bytes else "There was nothing to remove.")


def _rotate_key(home: Home, *, distrust_older: bool, as_json: bool) -> None:
    """Sign with a new key from now on."""
    from model_store import signing
    from model_store.storage.store import open_store

    path = open_store(home.store).keys
    key = signing.rotate(path)
    distrusted = signing.distrust_older(path) if distrust_older else []
    if as_json:
        print_json({"key": key, "distrusted": distrusted})
        return
    console.print(f"Bundles are signed with the key {key} from now on.")
    if distrusted:
        console.print(
            f"Not trusted any more: {', '.join(distrusted)}. `slipway store sign ID --vouched-for`"
            " signs a bundle that you know, or release its version again: pods that start refuse it until"
            " then.",
            soft_wrap=True,
        )
    else:
        console.print("What older keys signed stays good; `--distrust-older` ends that.")


def _sign(home: Home, bundles: list[str], *, vouched_for: bool, as_json: bool) -> None:
    """Sign bundles with the newest key: all that a trusted key signed, or the ones that are named."""
    from model_store.bundle.publishing import sign_again
    from model_store.storage.store import open_store

    if vouched_for and not bundles:
        raise Permanent("no bundle is named", remedy="name each bundle that you vouch for by its id")
    store = open_store(home.store)
    refused: dict[str, str] = {}
    signed: list[str] = []
    for bundle in bundles or [kept.name for kept in store.kept("bundles")]:
        try:
            if sign_again(store, bundle, vouched_for=vouched_for):
                signed.append(bundle)
        except Permanent as error:
            if bundles:
                raise
            refused[bundle] = error.problem
    if as_json:
        print_json({"signed": signed, "refused": refused})
        return
    console.print(f"{len(signed)} signed with the newest key.")
    for bundle, why in refused.items():
        console.print(f"{bundle} was not: {why}", soft_wrap=True)
    if refused:
        console.print("Look where they come from. `store sign ID --vouched-for` signs one that is yours.")


def _public_keys(home: Home) -> None:
    """Print the file of keys for machines that verify bundles and sign none."""
    from model_store import signing
    from model_store.storage.store import open_store

    console.print(signing.public_part(open_store(home.store).keys).decode(), soft_wrap=True)


def _place(store: Store) -> str:
    """The folder, or the bucket."""
    return store.url if store.shared else str(store.root)


def words(size_bytes: int, bundles: int) -> str:
    """`12.3 MB (4 bundles)`"""
    return f"{size_bytes / MEGABYTE:,.1f} MB ({bundles} {'bundle' if bundles == 1 else 'bundles'})"


store_app = typer.Typer(help="What is in the store, and who signs it.", no_args_is_help=True)


@store_app.command("show")
def show_store(as_json: Json = False) -> None:
    """Say how much of the store nothing needs any more."""
    with telling_failures(as_json=as_json):
        _show(Home.locate(), as_json=as_json)


@store_app.command("tidy")
def tidy_store(as_json: Json = False) -> None:
    """Remove what nothing needs. The DAG `store_upkeep` does it every night."""
    with telling_failures(as_json=as_json):
        _tidy(Home.locate(), as_json=as_json)


@store_app.command("rotate-key")
def rotate_key(
    distrust_older: Annotated[
        bool, typer.Option("--distrust-older", help="Refuse what older keys signed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sign bundles with a new key from now on."""
    with telling_failures(as_json=as_json):
        _rotate_key(Home.locate(), distrust_older=distrust_older, as_json=as_json)


@store_app.command("sign")
def sign(
    bundles: Annotated[list[str] | None, typer.Argument(help="Ids; left out: all.")] = None,
    vouched_for: Annotated[
        bool, typer.Option("--vouched-for", help="Sign the named ones whoever made them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sign again, with the newest key, what a trusted key signed: do it before --distrust-older."""
    with telling_failures(as_json=as_json):
        _sign(Home.locate(), bundles or [], vouched_for=vouched_for, as_json=as_json)


@store_app.command("public-keys")
def public_keys() -> None:
    """Print the keys that verify bundles, as a file for machines that sign none (SLIPWAY_BUNDLE_KEYS)."""
    with telling_failures(as_json=False):
        _public_keys(Home.locate())


ledger_app = typer.Typer(help="The ledger: what Slipway knows, and who did what.", no_args_is_help=True)


@ledger_app.command("backup")
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


@ledger_app.command("restore")
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


@ledger_app.command("verify")
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
