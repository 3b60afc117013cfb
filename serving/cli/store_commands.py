"""Commands for what an installation keeps: the store with its keys, and the secret shared with MLflow."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli import store
from serving.cli import webhooks as registry_webhooks
from serving.cli.options import Json
from serving.cli.output import telling_failures
from serving.home import Home

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
        registry_webhooks.sync(Home.locate(), test=test, as_json=as_json)


@webhooks.command("rotate")
def rotate_webhooks(as_json: Json = False) -> None:
    """Sign with a new secret from now on. Deliveries with the old one are taken for 15 minutes more."""
    with telling_failures(as_json=as_json):
        registry_webhooks.rotate(Home.locate(), as_json=as_json)


store_app = typer.Typer(help="What is in the store, and who signs it.", no_args_is_help=True)


@store_app.command("show")
def show_store(as_json: Json = False) -> None:
    """Say how much of the store nothing needs any more."""
    with telling_failures(as_json=as_json):
        store.show(Home.locate(), as_json=as_json)


@store_app.command("tidy")
def tidy_store(as_json: Json = False) -> None:
    """Remove what nothing needs. The DAG `store_upkeep` does it every night."""
    with telling_failures(as_json=as_json):
        store.tidy(Home.locate(), as_json=as_json)


@store_app.command("rotate-key")
def rotate_key(
    distrust_older: Annotated[
        bool, typer.Option("--distrust-older", help="Refuse what older keys signed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sign bundles with a new key from now on."""
    with telling_failures(as_json=as_json):
        store.rotate_key(Home.locate(), distrust_older=distrust_older, as_json=as_json)


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
        store.sign(Home.locate(), bundles or [], vouched_for=vouched_for, as_json=as_json)


@store_app.command("public-keys")
def public_keys() -> None:
    """Print the keys that verify bundles, as a file for machines that sign none (SLIPWAY_BUNDLE_KEYS)."""
    with telling_failures(as_json=False):
        store.public_keys(Home.locate())
