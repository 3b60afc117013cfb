"""spec init: a first release spec from a model and labelled rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from model_store.durable import write_file
from model_store.errors import Permanent
from serving.cli.output import Json, console, print_json, telling_failures
from serving.home import Home

if TYPE_CHECKING:
    from model_store.first_spec import FirstSpec

commands = typer.Typer(help="Release specs.", no_args_is_help=True)
MAX_DOWNLOAD_MB = 8192


@commands.command("init")
def init(
    model: Annotated[str, typer.Argument(help="models:/NAME/VERSION, or a model folder as MLflow saves it.")],
    data: Annotated[Path, typer.Option(help="Labelled rows nobody trained on, .parquet or .csv.")],
    calibration: Annotated[
        Path | None, typer.Option(help="Rows to tune int8 on.", show_default="a fifth of --data")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="The column with the right answer.", show_default="the one that is left"),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="The registered model's name.", show_default="of models:/, of the folder"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The spec to write.", show_default="NAME.yaml here")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a first spec: what model and rows say for certain, and questions for the rest."""
    # Reading models is heavy, and not every command's.
    from model_store.first_spec import first_spec

    with telling_failures(as_json=as_json):
        with tempfile.TemporaryDirectory(prefix="slipway-spec-") as scratch:
            called, folder = _model(Home.locate(), model, Path(scratch))
            called = name or called
            files = data.resolve(), calibration.resolve() if calibration else None
            path = output or Path(f"{called}.yaml")
            if path.exists():
                raise Permanent(f"{path} is there already", remedy="name another file by --output")
            spec = first_spec(called, folder, files[0], calibration=files[1], label=label)
        write_file(path, spec.text.encode())
        _tell(path, model, spec, as_json=as_json)


def _model(home: Home, model: str, scratch: Path) -> tuple[str, Path]:
    """Its name and its folder. Raises `Permanent`, or `Retryable` while MLflow does not answer."""
    from serving.cli.check import model_folder, registered_version, registry_of

    if not model.startswith("models:"):
        folder = model_folder(model)
        return folder.name, folder
    name, version = registered_version(model)
    registry = registry_of(home)
    ref = registry.resolve(name, version)
    return ref.name, registry.download(ref, scratch / "model", max_size_mb=MAX_DOWNLOAD_MB).folder


def _tell(path: Path, model: str, spec: FirstSpec, *, as_json: bool) -> None:
    if as_json:
        print_json({"spec": str(path), "found": spec.found, "asks": spec.asks})
        return
    console.print(Text.assemble("Written: ", (str(path), "bold")), soft_wrap=True)
    for found in spec.found:
        console.print(Text.assemble(("  found  ", "green"), found), soft_wrap=True)
    for ask in spec.asks:
        console.print(Text.assemble(("  asks   ", "yellow"), ask), soft_wrap=True)
    console.print(f"Then: ./slipway check {path} --model {model}", soft_wrap=True)
