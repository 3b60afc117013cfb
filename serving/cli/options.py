"""Arguments that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON on standard output.")]
Model = Annotated[str, typer.Argument(help="The model's name in the registry.")]
