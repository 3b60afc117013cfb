"""Short batches run on the event loop where their rows cost no more there, the rest on a thread."""

from __future__ import annotations

import pytest

from serving.pod.warmup import Warmed

MICROSECOND = 1e-6


@pytest.mark.parametrize(
    ("microseconds", "expected"),
    [
        # An MLP: even its largest batch is short.
        ({1: 17, 8: 22, 32: 46}, 32),
        # A small CNN: each row costs the same, so batches of eight lose nothing.
        ({1: 105, 2: 150, 4: 234, 8: 470, 16: 885, 32: 1830}, 8),
        # A GPU: a batch costs the same whatever its size, so only the largest is worth it.
        ({1: 500, 8: 520, 32: 700}, 0),
        # A transformer: one row is too long already.
        ({1: 29_000, 8: 211_000}, 0),
        # A model that takes one batch size only.
        ({1: 300}, 1),
    ],
    ids=["mlp", "cnn", "gpu", "transformer", "single"],
)
def test_batches_run_on_the_loop_only_where_that_costs_nothing(
    microseconds: dict[int, float], expected: int
) -> None:
    times = tuple((rows, time * MICROSECOND) for rows, time in microseconds.items())
    warmed = Warmed(times, row_elements=(1,), row_answers=1)
    assert warmed.short_batch_rows == expected
