"""check: what would become of a version, on this machine, without Airflow or traffic."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from model_store.check import (
    CANDIDATE,
    CHAMPION,
    CandidateReport,
    Ending,
    FolderVersions,
    Result,
    check,
    release_champion,
)
from model_store.errors import Permanent, Retryable
from model_store.registry import Registry
from model_store.release_spec import ReleaseSpec, load
from model_store.stage_request import Origin, request_of
from model_store.stages.base import BuildContext, Versions
from model_store.storage.store import Store, open_store
from model_store.types import ModelRef
from serving.cli.output import console, errors, print_json
from serving.composition import platform_of
from serving.home import Home
from serving.platforms.base import refusal_of

EXIT: dict[Ending, int] = {"published": 0, "blocked": 1, "refused": 2}
_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[\w.-]+))")


@dataclass(frozen=True, slots=True)
class VersionToCheck:
    """The version to judge and the registry that knows it."""

    ref: ModelRef
    versions: Versions
    is_folder: bool


def check_version(
    home: Home, spec_file: Path, model: str | None, champion: str | None, *, as_json: bool
) -> None:
    """Judge `model` (a folder, models:/NAME/VERSION, or None: the spec's alias) and print what was found.

    Raises `typer.Exit` with 0 (would be published), 1 (blocked by a gate) or 2 (refused).
    """
    try:
        result = _checked(home, spec_file, model, champion, quiet=as_json)
    except (Permanent, Retryable) as refused:
        # Not even begun: the spec, the folder or the registry is not what was meant.
        if as_json:
            print_json({"ending": "refused", "problem": refused.problem, "remedy": refused.remedy})
        else:
            _show_problem(refused.problem, refused.remedy)
        raise typer.Exit(EXIT["refused"]) from refused
    if as_json:
        print_json(to_json(result))
    else:
        show(result)
    raise typer.Exit(EXIT[result.ending])


def _checked(home: Home, spec_file: Path, model: str | None, champion: str | None, *, quiet: bool) -> Result:
    spec = _spec(spec_file)
    asked = _asked(home, spec, model, champion)
    with _workplace(home, is_own=asked.is_folder) as (store, docs):
        refusal = partial(refusal_of, platform_of(home), spec)
        ctx = BuildContext(store, asked.versions, spec, asked.ref, home.root, docs, refusal=refusal)
        with console.status("reading the model") if not quiet else _silence() as status:

            def tell(stage: str) -> None:
                if status is not None:
                    status.update(stage)

            if champion is not None and isinstance(asked.versions, FolderVersions):
                tell("export the champion")
                before = ModelRef(spec.model, CHAMPION)
                release_champion(
                    BuildContext(store, asked.versions, spec, before, home.root, docs), asked.versions
                )
            return check(ctx, tell=tell)


def request_for(home: Home, spec_file: Path, model: str | None) -> dict[str, Any]:
    """What the stages of a version's build are asked with (`model_store.stage_request`).

    `model` as for `check_version`. Raises `Permanent` and `Retryable`.
    """
    spec = _spec(spec_file)
    asked = _asked(home, spec, model, None)
    return request_of(Origin(open_store(home.store), asked.versions, home.root), spec, asked.ref)


@contextmanager
def _silence() -> Iterator[None]:
    yield


@contextmanager
def _workplace(home: Home, *, is_own: bool) -> Iterator[tuple[Store, Path | None]]:
    """A registered version is built in the home's store, so that its release finds the work done; a folder
    leaves nothing behind."""
    if not is_own:
        yield open_store(home.store), None
        return
    with tempfile.TemporaryDirectory(prefix="slipway-check-") as folder:
        yield Store(Path(folder) / "store"), Path(folder) / "docs"


def _spec(path: Path) -> ReleaseSpec:
    if not path.is_file():
        raise Permanent(
            f"there is no file {path}", remedy="name a spec; `slipway spec init` writes a first one"
        )
    return load(path)


def _asked(home: Home, spec: ReleaseSpec, model: str | None, champion: str | None) -> VersionToCheck:
    if model is None or model.startswith("models:"):
        if champion is not None:
            raise Permanent(
                "a registered version is compared with the champion that the registry names",
                remedy="leave out --champion, or name folders for both",
            )
        registry = registry_of(home)
        return VersionToCheck(_registered(registry, spec, model), registry, is_folder=False)
    folders = {CANDIDATE: model_folder(model)} | ({CHAMPION: model_folder(champion)} if champion else {})
    return VersionToCheck(ModelRef(spec.model, CANDIDATE), FolderVersions(folders), is_folder=True)


def _registered(registry: Registry, spec: ReleaseSpec, model: str | None) -> ModelRef:
    name, version = registered_version(model or f"models:/{spec.model}@{spec.source.alias}")
    if name != spec.model:
        raise Permanent(
            f"the spec releases {spec.model}, and {model} is a version of {name}",
            remedy=f"name a version of {spec.model}, or correct `model` in the spec",
        )
    return registry.resolve(name, version)


def registry_of(home: Home) -> Registry:
    """MLflow's, as `MLFLOW_TRACKING_URI` names it, else the stack's own."""
    return Registry(os.environ.get("MLFLOW_TRACKING_URI") or home.mlflow_url)


def registered_version(model: str) -> tuple[str, str]:
    """Name, and version number or alias. Raises `Permanent` for what names neither."""
    found = _REGISTERED.fullmatch(model)
    if found is None:
        raise Permanent(
            f"{model!r} names no version", remedy="write models:/NAME/VERSION or models:/NAME@alias"
        )
    return found["name"], found["version"] or found["alias"]


def model_folder(name: str) -> Path:
    """Raises `Permanent` when there is no such folder."""
    folder = Path(name).expanduser().resolve()
    if not folder.is_dir():
        raise Permanent(
            f"there is no folder {folder}",
            remedy="name the folder that mlflow.<flavour>.save_model wrote, or models:/NAME/VERSION",
        )
    return folder


def to_json(result: Result) -> dict[str, Any]:
    """Everything that was found, for machines."""
    return {
        "model": result.ref.name,
        "version": result.ref.version,
        "ending": result.ending,
        "stage": result.stage,
        "problem": result.problem,
        "remedy": result.remedy,
        "precision": result.precision,
        "reason": result.reason,
        "agreement": asdict(result.agreement) if result.agreement else None,
        "data": [asdict(one) for one in result.data],
        "candidates": [asdict(one) for one in result.candidates],
    }


def show(result: Result) -> None:
    """Everything that was found, for people: what is wrong stands last, where a terminal ends."""
    if result.agreement is not None:
        console.print(f"[bold]Export[/]  {escape(result.agreement.detail)}", soft_wrap=True)
    if result.data:
        met = sum(one.passed for one in result.data)
        console.print(f"[bold]Data[/]    {met} of {len(result.data)} expectations met")
    if result.candidates:
        console.print(_table(result))
    for candidate in result.candidates:
        _show_candidate(candidate)
    if result.ending == "published":
        console.print(f"\n[bold green]Would be published[/] as {result.precision}: {escape(result.reason)}.")
        return
    said = "Blocked by a gate" if result.ending == "blocked" else f"Refused at `{result.stage}`"
    console.print(f"\n[bold red]{escape(said)}[/]")
    _show_problem(result.problem, result.remedy)


def _table(result: Result) -> Table:
    table = Table(title=f"Candidates of {result.ref.name}", title_justify="left")
    for column in ("Candidate", "Verdict", "Size", "p50 / fp32"):
        table.add_column(column, justify="right" if column in ("Size", "p50 / fp32") else "left")
    for one in result.candidates:
        is_chosen = result.ending == "published" and one.passed and one.precision == result.precision
        table.add_row(
            one.name,
            _verdict(one, is_chosen=is_chosen),
            _size(one.size_bytes) if one.size_bytes is not None else "",
            f"{one.latency_ratio:.2f}" if one.latency_ratio is not None else "",
        )
    return table


def _verdict(candidate: CandidateReport, *, is_chosen: bool) -> str:
    if not candidate.checks:
        return "[yellow]none[/]"
    if not candidate.passed:
        return "[red]failed[/]"
    return "[bold green]chosen[/]" if is_chosen else "[green]passed[/]"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:,.1f} kB"


def _show_candidate(candidate: CandidateReport) -> None:
    console.print(f"\n[bold]{escape(candidate.name)}[/]")
    for reason in candidate.reasons:
        console.print(Text.assemble(("  --    ", "yellow"), reason), soft_wrap=True)
    for one in candidate.checks:
        mark = ("  ok    ", "green") if one.passed else ("  FAIL  ", "bold red")
        detail = one.detail or f"{one.observed:g}, limit {one.limit:g}"
        console.print(Text.assemble(mark, (f"{one.name}: ", "bold"), detail), soft_wrap=True)


def _show_problem(problem: str, remedy: str) -> None:
    errors.print(Text(problem, style="red"), soft_wrap=True)
    errors.print(Text.assemble(("  remedy: ", "bold"), remedy), soft_wrap=True)
