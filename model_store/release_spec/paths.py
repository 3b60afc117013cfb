"""Where the files are that a spec names."""

from __future__ import annotations

from pathlib import Path
from string import Template

from model_store.errors import Permanent
from model_store.installation import ROOT


def beside(written: str, spec: Path) -> str:
    """`written` as an absolute path if it is a relative one and its file lies there, seen from the spec's
    folder; else as it is. Like every path in a spec: `$$` is a dollar.
    """
    found = spec.resolve().parent / written
    if "$" in written or Path(written).is_absolute() or not found.is_file():
        return written
    return str(found.resolve()).replace("$", "$$")


def expand(written: str, *, home: Path, repository: Path = ROOT) -> Path:
    """The absolute path of `written` in a spec: `${SLIPWAY_HOME}` is `home`, a relative path that was not
    found beside the spec starts at `repository`, the clone.

    Raises `Permanent` on any other variable: a spec must mean the same on every machine.
    """
    try:
        path = Template(written).substitute(SLIPWAY_HOME=home)
    except (KeyError, ValueError) as error:
        raise Permanent(
            f"`{written}` names a variable that specs do not have ({error})",
            remedy="use ${SLIPWAY_HOME}, an absolute path, or one from the spec's folder; `$$` is a dollar",
        ) from error
    return (repository / path).resolve()
