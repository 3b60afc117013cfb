"""The commands and their arguments. What they do is in the modules beside this one."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from serving.cli import stack
from serving.cli.output import telling_failures
from serving.home import Home

app = typer.Typer(
    name="slipway",
    help="Releases machine-learning models: from the registry to users, and out again by itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON on standard output.")]


@app.callback()
def options(
    home: Annotated[
        str | None, typer.Option(envvar="SLIPWAY_HOME", help="Directory of all data.", show_default="var/")
    ] = None,
    port_base: Annotated[
        int | None,
        typer.Option(envvar="SLIPWAY_PORT_BASE", help="First of all ports.", show_default="8480"),
    ] = None,
) -> None:
    """Handed on in the environment, where every process of the stack looks for them."""
    if home:
        os.environ["SLIPWAY_HOME"] = home
    if port_base:
        os.environ["SLIPWAY_PORT_BASE"] = str(port_base)


@app.command()
def up(as_json: Json = False) -> None:
    """Start the local stack and wait until it is healthy. Starting twice is safe."""
    with telling_failures(as_json=as_json):
        stack.up(Home.locate(), as_json=as_json)


@app.command()
def down(as_json: Json = False) -> None:
    """End the local stack: pods are drained, and no process is left."""
    with telling_failures(as_json=as_json):
        stack.down(Home.locate(), as_json=as_json)


@app.command()
def status(as_json: Json = False) -> None:
    """Show every process, its health and its memory."""
    with telling_failures(as_json=as_json):
        stack.status(Home.locate(), as_json=as_json)


def main() -> None:
    """Entry point of `python -m serving.cli`."""
    app(prog_name="slipway")
