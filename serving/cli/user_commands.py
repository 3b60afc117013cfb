"""The commands of `slipway users`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from serving.cli import user_accounts
from serving.cli.output import telling_failures
from serving.home import Home

accounts = typer.Typer(help="Who may log in to this installation.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON on standard output.")]
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
        user_accounts.add(Home.locate(), name, role, password, as_json=as_json)


@accounts.command("remove")
def remove_user(name: User, as_json: Json = False) -> None:
    """End an account."""
    with telling_failures(as_json=as_json):
        user_accounts.remove(Home.locate(), name, as_json=as_json)


@accounts.command("list")
def list_users(as_json: Json = False) -> None:
    """Show every account and its role."""
    with telling_failures(as_json=as_json):
        user_accounts.show(Home.locate(), as_json=as_json)
