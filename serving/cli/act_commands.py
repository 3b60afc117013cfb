"""Commands for what people, and pipelines in their name, do to releases: over the REST API (docs/api.md)."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli import act_requests
from serving.cli.options import Json, Model
from serving.cli.output import telling_failures
from serving.home import Home

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
        act_requests.preview(Home.locate(), model, version, as_json=as_json)


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
        act_requests.act(Home.locate(), name, release, reason, as_json=as_json, bundle=bundle)


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
        act_requests.freeze(Home.locate(), model, hours, reason, as_json=as_json)


@commands.command()
def unfreeze(
    freeze_id: Annotated[str, typer.Argument(help="Its id, as `freezes` shows it.")],
    reason: Why,
    as_json: Json = False,
) -> None:
    """End a freeze that somebody asked for."""
    with telling_failures(as_json=as_json):
        act_requests.unfreeze(Home.locate(), freeze_id, reason, as_json=as_json)


@commands.command()
def freezes(model: OneModel = None, as_json: Json = False) -> None:
    """Show what is frozen now."""
    with telling_failures(as_json=as_json):
        act_requests.freezes(Home.locate(), model, as_json=as_json)


@commands.command()
def unpause(
    name: Annotated[str, typer.Argument(help="A model, or a DAG such as model_rollback.")],
    as_json: Json = False,
) -> None:
    """Let the DAG that releases a model go on after somebody paused it in Airflow."""
    with telling_failures(as_json=as_json):
        act_requests.unpause(Home.locate(), name, as_json=as_json)


@commands.command()
def audit(
    model: OneModel = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Show who did what, the newest first."""
    with telling_failures(as_json=as_json):
        act_requests.audit(Home.locate(), model, limit, as_json=as_json)
