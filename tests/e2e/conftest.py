"""A whole local stack for the tests of this folder, on free ports, in a home of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for the whole session. Leave it healthy: others use it after you."""
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running
