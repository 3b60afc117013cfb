"""approve, pause, freeze and the like: what a person, or a pipeline in their name, does over the REST API
(docs/api.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from serving.cli.output import Json, Model, console, print_json, telling_failures
from serving.home import Home
from serving.local_stack.apis import airflow_api, slipway_api

commands = typer.Typer()

Release = Annotated[str, typer.Argument(help="The release's id: <model>-v<version>-<time>.")]
Why = Annotated[str, typer.Option("--reason", help="Why. It is kept in the audit trail.")]
Bundle = Annotated[
    str | None,
    typer.Option(
        "--bundle",
        help="Answer only if this bundle is asked about.",
        show_default="the one that is asked about now",
    ),
]


@commands.command()
def preview(
    model: Model,
    version: Annotated[
        str | None, typer.Argument(help="A version number or alias.", show_default="the spec's alias")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a release would do, and what stands in its way. Starts nothing."""
    with telling_failures(as_json=as_json):
        _ask_preview(Home.locate(), model, version, as_json=as_json)


@commands.command()
def approve(release: Release, reason: Why, bundle: Bundle = None, as_json: Json = False) -> None:
    """Let the bundle that a release asks about onto traffic."""
    _act("approve", release, reason, as_json=as_json, bundle=bundle)


@commands.command()
def reject(release: Release, reason: Why, bundle: Bundle = None, as_json: Json = False) -> None:
    """End a release that asks for approval."""
    _act("reject", release, reason, as_json=as_json, bundle=bundle)


@commands.command()
def pause(release: Release, reason: Why, as_json: Json = False) -> None:
    """Keep a rollout's traffic split as it is."""
    _act("pause", release, reason, as_json=as_json)


@commands.command()
def resume(release: Release, reason: Why, as_json: Json = False) -> None:
    """Let a paused rollout go on."""
    _act("resume", release, reason, as_json=as_json)


@commands.command()
def skip(release: Release, reason: Why, as_json: Json = False) -> None:
    """End the present step with its first pass, without sitting out its hold."""
    _act("skip", release, reason, as_json=as_json)


@commands.command()
def abort(release: Release, reason: Why, as_json: Json = False) -> None:
    """End a release wherever it stands; its traffic goes back at once."""
    _act("abort", release, reason, as_json=as_json)


@commands.command()
def override(release: Release, reason: Why, as_json: Json = False) -> None:
    """Let a release pass every freeze."""
    _act("override", release, reason, as_json=as_json)


def _act(name: str, release: str, reason: str, *, as_json: bool, bundle: str | None = None) -> None:
    with telling_failures(as_json=as_json):
        _ask_to(Home.locate(), name, release, reason, as_json=as_json, bundle=bundle)


OneModel = Annotated[str | None, typer.Option("--model", help="Only this model.", show_default="every model")]


@commands.command()
def freeze(
    reason: Why,
    model: OneModel = None,
    hours: Annotated[
        float | None, typer.Option("--hours", help="For how long.", show_default="until it is lifted")
    ] = None,
    as_json: Json = False,
) -> None:
    """From now on nothing rolls out. Rollbacks are never held."""
    with telling_failures(as_json=as_json):
        _ask_freeze(Home.locate(), model, hours, reason, as_json=as_json)


@commands.command()
def unfreeze(
    freeze_id: Annotated[str, typer.Argument(help="Its id, as `freezes` shows it.")],
    reason: Why,
    as_json: Json = False,
) -> None:
    """End a freeze that somebody asked for."""
    with telling_failures(as_json=as_json):
        _ask_unfreeze(Home.locate(), freeze_id, reason, as_json=as_json)


@commands.command()
def freezes(model: OneModel = None, as_json: Json = False) -> None:
    """Show what is frozen now."""
    with telling_failures(as_json=as_json):
        _ask_freezes(Home.locate(), model, as_json=as_json)


@commands.command()
def unpause(
    name: Annotated[str, typer.Argument(help="A model, or a DAG such as model_rollback.")],
    as_json: Json = False,
) -> None:
    """Let the DAG that releases a model go on after somebody paused it in Airflow."""
    with telling_failures(as_json=as_json):
        _ask_unpause(Home.locate(), name, as_json=as_json)


@commands.command()
def audit(
    model: OneModel = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Show who did what, the newest first."""
    with telling_failures(as_json=as_json):
        _ask_audit(Home.locate(), model, limit, as_json=as_json)


# Those that no model has for itself.
SHARED_DAGS = ("model_rollback", "registry_reconcile", "deliver_notifications", "store_upkeep")


def _ask_to(
    home: Home, name: str, release: str, reason: str, *, as_json: bool, bundle: str | None = None
) -> None:
    """approve, reject, pause, resume, skip, abort or override a release. `bundle`: what is answered about."""
    with slipway_api(home) as api:
        said = api.post(f"/releases/{release}/{name}", reason=reason, bundle=bundle)
    _tell(said, _describe(name, said), as_json=as_json)


def _ask_preview(home: Home, model: str, version: str | None, *, as_json: bool) -> None:
    """What would run."""
    with slipway_api(home) as api:
        said = api.get("/releases/preview", model=model, version=version)
    steps = ", ".join(f"{step['weight']:g} % for {step['hold_seconds']:g} s" for step in said["steps"])
    lines = [f"{model} version {said['version']} would roll out: {steps}."]
    if approval := said["approval"]:
        lines.append(f"{approval['required']} of {', '.join(approval['approvers'])} have to approve.")
    _tell(said, "\n".join([*lines, *(f"! {warning}" for warning in said["warnings"])]), as_json=as_json)


def _ask_freeze(home: Home, model: str | None, hours: float | None, reason: str, *, as_json: bool) -> None:
    """Nothing of the model (or of all) rolls out from now on."""
    with slipway_api(home) as api:
        said = api.post("/freezes", model=model, hours=hours, reason=reason)
    _tell(said, f"{model or 'Every model'} is {said['words']}. Lift it: {said['id']}", as_json=as_json)


def _ask_unfreeze(home: Home, freeze_id: str, reason: str, *, as_json: bool) -> None:
    """End a freeze."""
    with slipway_api(home) as api:
        said = api.post(f"/freezes/{freeze_id}/lift", reason=reason)
    _tell(said, f"The freeze of {said['model'] or 'every model'} is lifted.", as_json=as_json)


def _ask_freezes(home: Home, model: str | None, *, as_json: bool) -> None:
    """What is frozen now."""
    with slipway_api(home) as api:
        said = api.get("/freezes", model=model)
    rows = ((one["id"], one["model"] or "every model", one["words"]) for one in said)
    _table(said, ("id", "model", "until when, and why"), rows, as_json=as_json)


def _ask_unpause(home: Home, name: str, *, as_json: bool) -> None:
    """Let the DAG of a model (or one of Slipway's own) go on. It is Airflow's act, and in Airflow's log."""
    with airflow_api(home) as api:
        dag_id = name if name in SHARED_DAGS else f"release_{name}"
        was_paused = api.unpause(dag_id)
    words = f"{dag_id} goes on." if was_paused else f"{dag_id} was not paused."
    _tell({"dag_id": dag_id, "was_paused": was_paused}, words, as_json=as_json)


def _ask_audit(home: Home, model: str | None, limit: int, *, as_json: bool) -> None:
    """Who did what."""
    with slipway_api(home) as api:
        said = api.get("/audit", model=model, limit=limit)
    rows = (
        (
            one["at"][:19],
            one["who"],
            one["action"],
            one["model"] or "",
            one["release_id"] or "",
            one["reason"],
        )
        for one in said
    )
    _table(said, ("when (UTC)", "who", "what", "model", "release", "why"), rows, as_json=as_json)


def _describe(name: str, said: Mapping[str, Any]) -> str:
    release = said["release_id"]
    match name:
        case "approve" | "reject":
            more = f", {said['still_needed']} more must approve" if said["still_needed"] else ""
            return f"{release} is {said['answer']}{more}."
        case "override":
            return f"No freeze holds {release} any more."
        case _:
            state = "paused, " if said["paused"] else ""
            return f"{release} is {state}{said['phase']}, {said['candidate_weight']:g} % on the candidate."


def _tell(said: Any, words: str, *, as_json: bool) -> None:
    if as_json:
        print_json(said)
    else:
        console.print(Text(words))


def _table(said: Any, head: Iterable[str], rows: Iterable[Iterable[str]], *, as_json: bool) -> None:
    if as_json:
        print_json(said)
        return
    table = Table(*head, box=None, header_style="bold")
    for row in rows:
        # As text: what people wrote is no markup.
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
