"""Where this Slipway's packages are: in a clone of the repository, or below `slipway` in a site-packages.

The wheel puts `model_store`, `serving`, `demo`, `examples` and `dags` below one package, `slipway`, because
names such as `serving` would meet other people's (docs/decisions/0119). What is started or imported by its
name takes that name from here, or from its own `__package__`.
"""

from __future__ import annotations

import os
from pathlib import Path

# "" in a clone, "slipway." where a wheel was installed.
PREFIX = __name__.removesuffix("model_store.installation")

ROOT = Path(__file__).resolve().parents[1]
"""The folder in which our packages and `dags` lie side by side."""

DAG_FILES = ROOT / "dags"


def is_clone() -> bool:
    """Whether this is the repository itself, run in place by `./slipway`."""
    return not PREFIX


def name_here(module: str) -> str:
    """What `module`, a name as in the repository, is called in this installation."""
    return PREFIX + module


def import_paths() -> list[str]:
    """What a process of ours needs on PYTHONPATH. Nothing where pip installed us: Python finds us there."""
    return [str(ROOT), str(ROOT / "plugins")] if is_clone() else []


def python_path(*more: str) -> dict[str, str]:
    """PYTHONPATH for a process of ours, as its environment's part."""
    paths = [*import_paths(), *more]
    return {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
