"""A disk that takes only a part of a line."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.serving.control.rollout.test_journal import record
from tests.unit.serving.world import RELEASE, World


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_half_a_line_is_an_error_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.journal.append(RELEASE, record(1))
    size = world.journal.counts_path(RELEASE).stat().st_size
    with files_end_at(size + 40), pytest.raises(OSError, match=r"counts\.jsonl"):
        world.journal.append(RELEASE, record(2))
    world.journal.append(RELEASE, record(3))
    assert list(world.journal.records(RELEASE)) == [record(1), record(3)]
