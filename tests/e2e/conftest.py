"""A whole local stack for the tests of this folder, on free ports, in a home of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from demo.models import MODEL
from tests.e2e.stack import REPOSITORY, Stack, run, running_stack

# Its pods are there and warm, and answer every caller with an error.
LAME = "zoo_lame"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for the whole session. Leave it healthy: others use it after you."""
    with running_stack(tmp_path_factory.mktemp("stack"), SLIPWAY_FAULTS=f"{LAME}@1:error_rate=1") as running:
        yield running


@pytest.fixture(scope="session")
def trained(stack: Stack) -> str:
    """A model of which version 1 is in the registry, with data; tests copy it under names of their own."""
    if not stack.registry.has(MODEL, 1):
        done = run([sys.executable, "-m", "demo.models", "1"], environ=stack.environ, cwd=REPOSITORY)
        assert done.returncode == 0, done.stdout + done.stderr
    return MODEL
