"""Arguments that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

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
