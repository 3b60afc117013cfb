"""The commands and their arguments. What they do is in the modules beside this one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from model_store.errors import Permanent
from serving.cli import acts, releases, stack, store
from serving.cli import webhooks as registry_webhooks
from serving.cli.accounts import accounts
from serving.cli.doctor import doctor as examine
from serving.cli.output import telling_failures
from serving.home import REPOSITORY, Home

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


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look for what could keep Slipway from working on this machine."""
    with telling_failures(as_json=as_json):
        examine(Home.locate(), as_json=as_json)


Wait = Annotated[bool, typer.Option("--wait", help="Follow it to its end; exit 1 if it fails.")]
Reason = Annotated[str, typer.Option("--reason", help="For those who read the history later.")]
Model = Annotated[str, typer.Argument(help="The model's name in the registry.")]


@app.command()
def release(
    model: Model,
    version: Annotated[
        str | None, typer.Argument(help="A version number or alias.", show_default="the spec's alias")
    ] = None,
    reason: Reason = "asked for on the command line",
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Release a version of a model: build, gate, roll out."""
    with telling_failures(as_json=as_json):
        releases.release(Home.locate(), model, version, reason, wait=wait, as_json=as_json)


@app.command()
def rollback(
    model: Model,
    version: Annotated[
        str | None, typer.Argument(help="A version number.", show_default="the one that served before")
    ] = None,
    reason: Reason = "asked for on the command line",
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Send all users back to the previous version, or to the named one."""
    with telling_failures(as_json=as_json):
        releases.rollback(Home.locate(), model, version, reason, wait=wait, as_json=as_json)


webhooks = typer.Typer(help="What MLflow tells Slipway, and with which secret.", no_args_is_help=True)
app.add_typer(webhooks, name="webhooks")


@webhooks.command("sync")
def sync_webhooks(
    test: Annotated[
        bool, typer.Option("--test", help="Let MLflow send a delivery that starts nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Register the webhook in MLflow, or bring it up to date. `up` does it, too."""
    with telling_failures(as_json=as_json):
        registry_webhooks.sync(Home.locate(), test=test, as_json=as_json)


@webhooks.command("rotate")
def rotate_webhooks(as_json: Json = False) -> None:
    """Sign with a new secret from now on. Deliveries with the old one are taken for 15 minutes more."""
    with telling_failures(as_json=as_json):
        registry_webhooks.rotate(Home.locate(), as_json=as_json)


store_app = typer.Typer(help="What is in the store, and who signs it.", no_args_is_help=True)
app.add_typer(store_app, name="store")


@store_app.command("show")
def show_store(as_json: Json = False) -> None:
    """Say how much of the store nothing needs any more."""
    with telling_failures(as_json=as_json):
        store.show(Home.locate(), as_json=as_json)


@store_app.command("tidy")
def tidy_store(as_json: Json = False) -> None:
    """Remove what nothing needs. The DAG `store_upkeep` does it every night."""
    with telling_failures(as_json=as_json):
        store.tidy(Home.locate(), as_json=as_json)


@store_app.command("rotate-key")
def rotate_key(
    distrust_older: Annotated[
        bool, typer.Option("--distrust-older", help="Refuse what older keys signed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sign bundles with a new key from now on."""
    with telling_failures(as_json=as_json):
        store.rotate_key(Home.locate(), distrust_older=distrust_older, as_json=as_json)


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


@app.command()
def preview(
    model: Model,
    version: Annotated[
        str | None, typer.Argument(help="A version number or alias.", show_default="the spec's alias")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a release would do, and what stands in its way. Starts nothing."""
    with telling_failures(as_json=as_json):
        acts.preview(Home.locate(), model, version, as_json=as_json)


@app.command()
def approve(release: Release, reason: Why, bundle: Bundle = None, as_json: Json = False) -> None:
    """Let a release onto traffic, with the bundle it asks about and no other."""
    _act("approve", release, reason, as_json=as_json, bundle=bundle)


@app.command()
def reject(release: Release, reason: Why, bundle: Bundle = None, as_json: Json = False) -> None:
    """End a release that asks for approval."""
    _act("reject", release, reason, as_json=as_json, bundle=bundle)


@app.command()
def pause(release: Release, reason: Why, as_json: Json = False) -> None:
    """Keep a rollout's traffic split as it is."""
    _act("pause", release, reason, as_json=as_json)


@app.command()
def resume(release: Release, reason: Why, as_json: Json = False) -> None:
    """Let a paused rollout go on."""
    _act("resume", release, reason, as_json=as_json)


@app.command()
def skip(release: Release, reason: Why, as_json: Json = False) -> None:
    """End the present step with its first pass, without sitting out its hold."""
    _act("skip", release, reason, as_json=as_json)


@app.command()
def abort(release: Release, reason: Why, as_json: Json = False) -> None:
    """End a release wherever it stands; its traffic goes back at once."""
    _act("abort", release, reason, as_json=as_json)


@app.command()
def override(release: Release, reason: Why, as_json: Json = False) -> None:
    """Let a release pass every freeze."""
    _act("override", release, reason, as_json=as_json)


def _act(name: str, release: str, reason: str, *, as_json: bool, bundle: str | None = None) -> None:
    with telling_failures(as_json=as_json):
        acts.act(Home.locate(), name, release, reason, as_json=as_json, bundle=bundle)


OneModel = Annotated[str | None, typer.Option("--model", help="Only this model.", show_default="every model")]


@app.command()
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
        acts.freeze(Home.locate(), model, hours, reason, as_json=as_json)


@app.command()
def unfreeze(
    freeze_id: Annotated[str, typer.Argument(help="Its id, as `freezes` shows it.")],
    reason: Why,
    as_json: Json = False,
) -> None:
    """End a freeze that somebody asked for."""
    with telling_failures(as_json=as_json):
        acts.unfreeze(Home.locate(), freeze_id, reason, as_json=as_json)


@app.command()
def freezes(model: OneModel = None, as_json: Json = False) -> None:
    """Show what is frozen now."""
    with telling_failures(as_json=as_json):
        acts.freezes(Home.locate(), model, as_json=as_json)


@app.command()
def audit(
    model: OneModel = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many.")] = 20,
    as_json: Json = False,
) -> None:
    """Show who did what, the newest first."""
    with telling_failures(as_json=as_json):
        acts.audit(Home.locate(), model, limit, as_json=as_json)


app.add_typer(accounts, name="users")


@app.command()
def validate(
    spec: Annotated[Path, typer.Argument(help="A release spec (YAML).")], as_json: Json = False
) -> None:
    """Check a release spec without running anything."""
    with telling_failures(as_json=as_json):
        releases.validate(spec, as_json=as_json)


@app.command()
def replay(
    release: Annotated[str, typer.Argument(help="A release's id, as in its page and its MLflow run.")],
    policy: Annotated[
        Path, typer.Option(help="A release spec, or a YAML file with fields of its rollout.analysis.")
    ],
    as_json: Json = False,
) -> None:
    """Say what another policy would have done with the same traffic, and when."""
    from serving.cli.replaying import replay_release

    with telling_failures(as_json=as_json):
        replay_release(Home.locate(), release, policy, as_json=as_json)


PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=PASS_ON)
def demo(context: typer.Context) -> None:
    """Watch four versions travel to users, and a bad one back. `--keep` leaves the stack up."""
    _become("demo", context.args)


@app.command(context_settings=PASS_ON)
def test(context: typer.Context) -> None:
    """Check the code and run all tests; arguments go to pytest."""
    _become("tests", context.args)


@app.command(context_settings=PASS_ON)
def bench(
    context: typer.Context, name: Annotated[str, typer.Argument(help="A file in benchmarks/.")]
) -> None:
    """Run one benchmark; further arguments are its own."""
    with telling_failures(as_json=False):
        folder = REPOSITORY / "benchmarks"
        known = sorted(path.stem for path in folder.glob("[!_]*.py"))
        known += sorted(path.parent.name for path in folder.glob("*/__main__.py"))
        if name not in known:
            raise Permanent(f"there is no benchmark {name!r}", remedy=f"Benchmarks: {', '.join(known)}.")
    _become(f"benchmarks.{name}", context.args)


def _become(module: str, arguments: list[str]) -> None:
    os.chdir(REPOSITORY)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def main() -> None:
    """Entry point of `python -m serving.cli`."""
    app(prog_name="slipway")
