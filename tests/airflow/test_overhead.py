"""How the benchmark of Airflow's overhead counts time at work."""

from __future__ import annotations

import pytest

from benchmarks.release_overhead import Taken, covered


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0),
        ([(1, 3)], 2),
        ([(1, 3), (5, 6)], 3),
        ([(5, 6), (1, 3)], 3),
        ([(1, 4), (2, 3)], 3),
        ([(1, 3), (2, 5)], 4),
    ],
    ids=["nothing", "one", "apart", "in any order", "inside", "overlapping"],
)
def test_two_tasks_at_work_at_once_are_counted_once(spans: list[tuple[float, float]], seconds: float) -> None:
    assert covered(spans) == seconds


def test_overhead_is_what_neither_steps_nor_work_explain() -> None:
    assert Taken(wall=30, held=12, worked=8).overhead == 10
