"""The demo's hand on the product: its command line, `slipway ... --json`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from model_store.errors import Permanent, Retryable
from model_store.installation import name_here, python_path

COMMAND = (sys.executable, "-m", name_here("serving.cli"))


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """For the product's processes and the demo's own."""
    return {**environ, **python_path()}


def slipway(*arguments: str, environ: Mapping[str, str] = os.environ) -> Any:
    """What the command says in JSON. Raises `Permanent` or `Retryable` where it says that it failed.

    An exit status of 1 with an answer is for the caller to judge: `status` says so of a stack that is unwell.
    """
    command, own = [*COMMAND, *arguments, "--json"], environment(environ)
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        said = {"error": {"problem": (done.stderr or done.stdout).strip(), "remedy": "see above"}}
    if isinstance(said, dict) and (error := said.get("error")):
        kind = Retryable if error.get("retryable") else Permanent
        told = f"`slipway {' '.join(arguments)}` failed: {error['problem']}"
        raise kind(told, remedy=error["remedy"])
    return said
