"""How the commands speak: their arguments, text for people, JSON for machines, and failures."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from model_store.errors import Permanent, Retryable, SlipwayError
from model_store.unwritable import unwritable
from serving.home import Home

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """The command's answer for machines, on standard output."""
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")


@contextmanager
def telling_failures(*, as_json: bool) -> Iterator[None]:
    """Turn any failure into its problem, its remedy and exit status 1. Raises typer.Exit."""
    try:
        yield
    except SlipwayError as error:
        _tell(error, as_json=as_json)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as interrupt:
        errors.print("\nInterrupted.")
        raise typer.Exit(130) from interrupt
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        _tell(unwritable(error) or _unexpected(error), as_json=as_json)
        raise typer.Exit(1) from error


def _tell(error: SlipwayError, *, as_json: bool) -> None:
    if as_json:
        temporary = isinstance(error, Retryable)
        print_json({"error": {"problem": error.problem, "remedy": error.remedy, "retryable": temporary}})
        return
    # Not broken into lines: in a file or a pipe a path has to stay whole, and a terminal breaks lines itself.
    errors.print(Text(error.problem, style="bold red"), soft_wrap=True)
    errors.print(Text.assemble(("  remedy: ", "bold"), error.remedy), soft_wrap=True)


def _unexpected(error: Exception) -> Permanent:
    """A fault of ours. The traceback goes to a file: it helps whoever mends it, not whoever meets it."""
    log = Home.locate().logs / "cli.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        traceback.print_exception(error)
    return Permanent(
        f"unexpected {type(error).__name__}: {error}",
        remedy=f"This is a fault in Slipway. Please report it with the end of {log}.",
    )


Json = Annotated[bool, typer.Option("--json", help="Answer in JSON on standard output.")]
Model = Annotated[str, typer.Argument(help="The model's name in the registry.")]
Version = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A model folder as MLflow saves it, or models:/NAME/VERSION.",
        show_default="the spec's alias",
    ),
]
