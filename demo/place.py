"""Where the demo lives: a directory of its own, fresh every time.

Version numbers, aliases and the injected fault (`credit_risk@4`) only tell the story in a registry that is
empty. So the demo never runs in a home somebody else made, and it empties the one it made itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from demo.command import slipway
from model_store.errors import Permanent, Retryable
from model_store.installation import DAG_FILES

MARK = "made-by-slipway-demo"
CACHE = "cache"


@dataclass(frozen=True, slots=True)
class DemoHome:
    """A Slipway home, and where its stack answers once it is up; `page` is for people's browsers."""

    root: Path
    airflow_url: str
    mlflow_url: str
    gateway_url: str
    page: str = ""

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> DemoHome:
        """The installation of this environment, as `slipway addresses` says it, running or not."""
        said = slipway("addresses", environ=environ)
        return cls(Path(said["home"]), said["airflow"], said["mlflow"], said["gateway"], said["page"])

    @property
    def data(self) -> Path:
        """What specs read as `${SLIPWAY_HOME}/data`."""
        return self.root / "data"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def cache(self) -> Path:
        """What was fetched from package registries, and stays for the next demo."""
        return self.root / CACHE


def fresh_home(environ: MutableMapping[str, str] = os.environ, *, spec: Path | None = None) -> DemoHome:
    """An empty home in `SLIPWAY_HOME` (default: `demo` in the usual one), marked as the demo's; sets
    `SLIPWAY_HOME` to it.

    What was fetched from package registries stays. With `spec`, the home has a DAG folder of its own, whose
    only release spec that is.
    Raises `Permanent` when the directory holds anything but an earlier demo, or that demo's stack still runs.
    """
    root = default_root(environ)
    environ["SLIPWAY_HOME"] = str(root)
    if root.exists() and any(root.iterdir()):
        _require_own(root)
        _require_stopped(root, environ)
        _empty(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / MARK).write_text("The demo empties this directory each time it starts.\n")
    if spec is not None:
        _own_dags(root / "dags", spec)
    return DemoHome.of(environ)


def default_root(environ: Mapping[str, str]) -> Path:
    """`SLIPWAY_HOME`, or a folder in the usual one."""
    if said := environ.get("SLIPWAY_HOME"):
        return Path(said)
    return DemoHome.of(environ).root / "demo"


def _own_dags(folder: Path, spec: Path) -> None:
    """The repository's DAGs beside one spec: DAGs look for specs where they lie themselves."""
    (folder / "releases").mkdir(parents=True)
    for file in (*DAG_FILES.glob("*.py"), DAG_FILES / ".airflowignore"):
        (folder / file.name).symlink_to(file)
    shutil.copyfile(spec, folder / "releases" / spec.name)


def _require_own(root: Path) -> None:
    if not (root / MARK).exists():
        raise Permanent(
            f"{root} is not empty, and the demo did not make it",
            remedy="Unset SLIPWAY_HOME, or set it to a directory that does not exist yet.",
        )


def _require_stopped(root: Path, environ: Mapping[str, str]) -> None:
    if is_running(environ):
        raise Permanent(
            f"an earlier demo still runs in {root}",
            remedy=f"End it first: SLIPWAY_HOME={root} ./slipway down",
        )


def is_running(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the stack of this environment is up, healthy or not."""
    try:
        return bool(slipway("status", environ=environ)["programs"])
    except Retryable:
        return False


def _empty(root: Path) -> None:
    # The mark goes last: an interrupted emptying leaves a directory that the next demo may still empty.
    for entry in sorted(root.iterdir(), key=lambda path: path.name == MARK):
        if entry.name == CACHE:
            continue
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
