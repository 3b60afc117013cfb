"""Where the demo lives: a directory of its own, fresh every time.

Version numbers, aliases and the injected fault (`credit_risk@4`) only tell the story in a registry that is
empty. So the demo never runs in a home somebody else made, and it empties the one it made itself.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from model_store.durable import write_file
from model_store.errors import Permanent
from model_store.installation import DAG_FILES
from serving.home import Home, default_root
from serving.supervision.supervisor import Supervisor

MARK = "made-by-slipway-demo"
CACHE = "cache"


def fresh_home(environ: os._Environ[str] | dict[str, str] = os.environ, *, spec: Path | None = None) -> Home:
    """An empty home in `SLIPWAY_HOME` (default `var/demo`), marked as the demo's; sets `SLIPWAY_HOME` to it.

    What was fetched from package registries stays. With `spec`, the home has a DAG folder of its own, whose
    only release spec that is.
    Raises `Permanent` when the directory holds anything but an earlier demo, or that demo's stack still runs.
    """
    environ["SLIPWAY_HOME"] = environ.get("SLIPWAY_HOME") or str(default_root(environ) / "demo")
    home = Home.locate(environ)
    if home.root.exists() and any(home.root.iterdir()):
        _require_own(home)
        _require_stopped(home)
        _empty(home.root)
    write_file(home.root / MARK, b"The demo empties this directory each time it starts.\n")
    if spec is not None:
        _own_dags(home.root / "dags", spec)
    return Home.locate(environ)


def _own_dags(folder: Path, spec: Path) -> None:
    """The repository's DAGs beside one spec: DAGs look for specs where they lie themselves."""
    (folder / "releases").mkdir(parents=True)
    for file in (*DAG_FILES.glob("*.py"), DAG_FILES / ".airflowignore"):
        (folder / file.name).symlink_to(file)
    shutil.copyfile(spec, folder / "releases" / spec.name)


def _require_own(home: Home) -> None:
    if not (home.root / MARK).exists():
        raise Permanent(
            f"{home.root} is not empty, and the demo did not make it",
            remedy="Unset SLIPWAY_HOME, or set it to a directory that does not exist yet.",
        )


def _require_stopped(home: Home) -> None:
    if Supervisor(home).is_running():
        raise Permanent(
            f"an earlier demo still runs in {home.root}",
            remedy=f"End it first: SLIPWAY_HOME={home.root} ./slipway down",
        )


def _empty(root: Path) -> None:
    # The mark goes last: an interrupted emptying leaves a directory that the next demo may still empty.
    for entry in sorted(root.iterdir(), key=lambda path: path.name == MARK):
        if entry.name == CACHE:
            continue
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
