"""Where the files are that a spec names."""

from __future__ import annotations

from pathlib import Path
from string import Template

from model_store.errors import Permanent

REPOSITORY = Path(__file__).resolve().parents[2]


def expand(written: str, *, home: Path, repository: Path = REPOSITORY) -> Path:
    """The absolute path of `written` in a spec: `${SLIPWAY_HOME}` is `home`, a relative path starts at
    `repository`. Raises `Permanent` on any other variable: a spec must mean the same on every machine.
    """
    try:
        path = Template(written).substitute(SLIPWAY_HOME=home)
    except (KeyError, ValueError) as error:
        raise Permanent(
            f"`{written}` names a variable that specs do not have ({error})",
            remedy="use ${SLIPWAY_HOME}, an absolute path, or one from the repository; `$$` is a dollar",
        ) from error
    return (repository / path).resolve()
