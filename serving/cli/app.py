"""The commands and their arguments. What they do is in the modules beside this one, which are imported by the
command that runs: `slipway --help` needs neither numpy nor the release domain.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from model_store.errors import Permanent
from model_store.installation import ROOT, is_clone, name_here
from serving.cli import access, acts, builds
from serving.cli.output import Json, Model, Version, telling_failures
from serving.cli.store import ledger_app, store_app
from serving.home import Home, default_root
from serving.supervision.component import START_SECONDS

app = typer.Typer(
    name="slipway",
    help="Releases machine-learning models: from the registry to users, and out again by itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    home: Annotated[
        str | None,
        typer.Option(envvar="SLIPWAY_HOME", help="Directory of all data.", show_default=str(default_root())),
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
def up(
    timeout: Annotated[
        float, typer.Option(help="Seconds that a component may take to become healthy.", min=1)
    ] = START_SECONDS,
    as_json: Json = False,
) -> None:
    """Start the local stack and wait until it is healthy. Starting twice is safe."""
    from serving.cli import stack

    with telling_failures(as_json=as_json):
        _require_installed("airflow", "envoy", "supervisor")
        stack.up(Home.locate(), timeout_seconds=timeout, as_json=as_json)


@app.command()
def down(as_json: Json = False) -> None:
    """End the local stack: pods are drained, and no process is left."""
    from serving.cli import stack

    with telling_failures(as_json=as_json):
        stack.down(Home.locate(), as_json=as_json)


@app.command()
def status(as_json: Json = False) -> None:
    """Show every process, its health and its memory."""
    from serving.cli import stack

    with telling_failures(as_json=as_json):
        stack.status(Home.locate(), as_json=as_json)


@app.command()
def addresses(as_json: Json = False) -> None:
    """Say where everything answers when it is up, and where its data is. Nothing has to run."""
    from serving.cli import stack

    with telling_failures(as_json=as_json):
        stack.tell_addresses(Home.locate(), as_json=as_json)


@app.command()
def preview_token(
    model: Model,
    minutes: Annotated[float, typer.Option(help="How long it is good.", min=1, max=24 * 60)] = 60,
    as_json: Json = False,
) -> None:
    """Print the headers that ask a model's candidate past its weight; no verdict counts it."""
    with telling_failures(as_json=as_json):
        access.preview_headers(Home.locate(), model, minutes=minutes, as_json=as_json)


@app.command()
def proxies(as_json: Json = False) -> None:
    """Show the gateway's Envoys: which routes each has taken, and what it refuses."""
    with telling_failures(as_json=as_json):
        access.proxies(Home.locate(), as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look for what could keep Slipway from working on this machine."""
    from serving.cli import stack

    with telling_failures(as_json=as_json):
        stack.doctor(Home.locate(), as_json=as_json)


Wait = Annotated[bool, typer.Option("--wait", help="Follow it to its end; exit 1 if it fails.")]
Reason = Annotated[str, typer.Option("--reason", help="For those who read the history later.")]


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
    from serving.cli import releases

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
    from serving.cli import releases

    with telling_failures(as_json=as_json):
        releases.rollback(Home.locate(), model, version, reason, wait=wait, as_json=as_json)


@app.command()
def adopt(
    model: Model,
    reason: Annotated[str, typer.Option("--reason", help="Why. It is kept in the audit trail.")],
    as_json: Json = False,
) -> None:
    """Take what the gateway was told of a model for what was decided: after an older ledger was restored."""
    from serving.cli import releases

    with telling_failures(as_json=as_json):
        releases.adopt(Home.locate(), model, reason, as_json=as_json)


# Shown in this order by `./slipway --help`.
app.add_typer(access.webhooks_app, name="webhooks")
app.add_typer(store_app, name="store")
app.add_typer(ledger_app, name="ledger")
app.registered_commands += acts.commands.registered_commands
app.add_typer(access.users_app, name="users")
app.add_typer(access.keys_app, name="keys")
app.add_typer(builds.spec_app, name="spec")
app.add_typer(builds.stage_app, name="stage")


@app.command()
def validate(
    spec: Annotated[Path, typer.Argument(help="A release spec (YAML).")], as_json: Json = False
) -> None:
    """Check a release spec without running anything."""
    from serving.cli import releases

    with telling_failures(as_json=as_json):
        releases.validate(spec, as_json=as_json)


@app.command()
def check(
    spec: Annotated[Path, typer.Argument(help="A release spec (YAML).")],
    model: Version = None,
    champion: Annotated[
        str | None, typer.Option(help="A model folder to compare with; registered versions know theirs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build and judge a version here, without publishing it: 0 would be published, 1 blocked, 2 refused."""
    from serving.cli.check import check_version

    with telling_failures(as_json=as_json):
        check_version(Home.locate(), spec, model, champion, as_json=as_json)


@app.command()
def replay(
    release: Annotated[str, typer.Argument(help="A release's id, as in its page and its MLflow run.")],
    policy: Annotated[
        Path, typer.Option(help="A release spec, or a YAML file with fields of its rollout.analysis.")
    ],
    as_json: Json = False,
) -> None:
    """Say what another policy would have done with the same traffic, and when."""
    from serving.cli.releases import replay_release

    with telling_failures(as_json=as_json):
        replay_release(Home.locate(), release, policy, as_json=as_json)


@app.command()
def controller() -> None:
    """Run the process that moves traffic, in the foreground. `up` keeps it running by itself."""
    _become(name_here("serving.controller"), [])


PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=PASS_ON)
def demo(context: typer.Context) -> None:
    """Watch four versions travel to users, and a bad one back. `--keep` leaves the stack up."""
    with telling_failures(as_json=False):
        _require_installed("airflow", "envoy", "supervisor")
    _become(name_here("demo"), context.args)


@app.command(context_settings=PASS_ON)
def test(context: typer.Context) -> None:
    """Check the code and run all tests; arguments go to pytest."""
    with telling_failures(as_json=False):
        _require_clone("tests")
    _become("tests", context.args)


@app.command(context_settings=PASS_ON)
def bench(
    context: typer.Context, name: Annotated[str, typer.Argument(help="A file in benchmarks/.")]
) -> None:
    """Run one benchmark; further arguments are its own."""
    with telling_failures(as_json=False):
        _require_clone("benchmarks")
        folder = ROOT / "benchmarks"
        known = sorted(path.stem for path in folder.glob("[!_]*.py"))
        known += sorted(path.parent.name for path in folder.glob("*/__main__.py"))
        if name not in known:
            raise Permanent(f"there is no benchmark {name!r}", remedy=f"Benchmarks: {', '.join(known)}.")
    _become(f"benchmarks.{name}", context.args)


def _require_clone(what: str) -> None:
    if not is_clone():
        raise Permanent(f"the {what} are not installed with the package", remedy="Run them in a clone of it.")


def _require_installed(*modules: str) -> None:
    """What `pip install slipway` alone does not bring. Raises `Permanent` naming it."""
    if missing := [module for module in modules if find_spec(module) is None]:
        raise Permanent(
            f"the local stack needs {', '.join(missing)}, and it is not installed",
            remedy="Install Slipway with its extras: pip install 'slipway[airflow,local]'.",
        )


def _become(module: str, arguments: list[str]) -> None:
    if is_clone():
        os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def main() -> None:
    """Entry point of `slipway` and of `python -m serving.cli`."""
    app(prog_name="slipway")
