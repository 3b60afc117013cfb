"""A whole local stack for the tests of this folder, on free ports, in a home of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from demo.models import MODEL
from model_store.registry import Registry, UnknownVersion
from model_store.types import ModelRef
from serving.home import REPOSITORY
from tests.e2e.stack import Stack, run, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for the whole session. Leave it healthy: others use it after you."""
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture(scope="session")
def trained(stack: Stack) -> ModelRef:
    """The demo's first version in the registry, and its data; tests copy it under names of their own."""
    version = ModelRef(MODEL, 1)
    try:
        Registry(stack.home.mlflow_url).describe(version)
    except UnknownVersion:
        done = run([sys.executable, "-m", "demo.models", "1"], environ=stack.environ, cwd=REPOSITORY)
        assert done.returncode == 0, done.stdout + done.stderr
    return version
