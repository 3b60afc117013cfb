"""spec, stage: a first release spec from a model and labelled rows; and one stage of a build, as a pod or
another machine runs it, JSON in and JSON out.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from model_store.durable import write_file
from model_store.errors import Permanent
from serving.cli.output import Json, Version, console, print_json, telling_failures
from serving.home import Home

if TYPE_CHECKING:
    from model_store.first_spec import FirstSpec


spec_app = typer.Typer(help="Release specs.", no_args_is_help=True)
MAX_DOWNLOAD_MB = 8192


@spec_app.command("init")
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


stage_app = typer.Typer(
    help="Run one stage of a build anywhere: JSON in, JSON out, storage by URL.", no_args_is_help=True
)
NAMES = ("export", "check_data", "quantize", "compile", "gate", "choose", "publish")

Input = Annotated[str, typer.Option("--input", help="The request: a file, a URL, or - for standard input.")]
Output = Annotated[str, typer.Option("--output", help="The answer: a file, a URL, or - for standard output.")]


@stage_app.command("request")
def request(
    spec: Annotated[Path, typer.Argument(help="A release spec (YAML).")],
    model: Version = None,
    output: Output = "-",
) -> None:
    """Put what the stages of a version's build need into the storage, and say what to ask them with."""
    from serving.cli.check import request_for

    with telling_failures(as_json=False), _only_the_answer() as write:
        write(output, request_for(Home.locate(), spec, model))


def _add_stage(stage: str) -> None:
    def run(input: Input = "-", output: Output = "-") -> None:
        from model_store import stage_request
        from model_store.storage.store import open_store

        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("slipway").setLevel(logging.INFO)
        # With --output URL its storage may be away: that is told as any other command's failure.
        _hide_from_children()
        with telling_failures(as_json=False), _only_the_answer() as write:
            store = open_store(Home.locate().store, makes_keys=False)
            answer = stage_request.run(stage, lambda: _read(input), store)
            write(output, answer)
        raise typer.Exit(stage_request.EXIT[answer["status"]])

    run.__doc__ = f"Run the stage {stage}: exit 0 done, 20 blocked by a gate, 21 refused, 22 try again."
    stage_app.command(stage)(run)


for name in NAMES:
    _add_stage(name)


def _hide_from_children() -> None:
    """From other people's code, where no sandbox stands between: it runs as the same user, and could read our
    environment, with the storage's credentials, in /proc, and our memory. What it is given has none of that.
    """
    with suppress(OSError, AttributeError):
        # PR_SET_DUMPABLE of prctl(2), which Linux alone has.
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)


@contextmanager
def _only_the_answer() -> Iterator[Callable[[str, dict[str, Any]], None]]:
    """How to write the answer. Whatever libraries print meanwhile goes to standard error."""
    sys.stdout.flush()
    descriptor = os.dup(1)
    os.dup2(2, 1)

    def write(target: str, answer: dict[str, Any]) -> None:
        from model_store.storage.opening import is_url, open_storage, split

        content = json.dumps(answer, indent=1, ensure_ascii=False).encode() + b"\n"
        if target == "-":
            with open(descriptor, "wb", closefd=False) as standard_output:
                standard_output.write(content)
        elif is_url(target):
            storage, key = split(target)
            open_storage(storage).put(key, content)
        else:
            write_file(Path(target), content)

    try:
        yield write
    finally:
        sys.stdout.flush()
        os.dup2(descriptor, 1)
        os.close(descriptor)


def _read(source: str) -> bytes:
    from model_store.storage.opening import is_url, open_storage, split

    if source == "-":
        return sys.stdin.buffer.read()
    if is_url(source):
        storage, key = split(source)
        return open_storage(storage).get(key)
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise Permanent(
            f"{source} cannot be read: {error.strerror}", remedy="name the file of the request"
        ) from error
