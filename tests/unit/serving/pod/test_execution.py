"""One bad request never fails its batch neighbours, and nobody gets another's answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.engines.base import EngineOutOfMemory
from model_store.engines.errors import ModelFault, Refused
from model_store.engines.manifest import Settings
from model_store.errors import SlipwayError
from serving.pod.execution import Executed, Executor
from tests.unit.serving.pod.calls import SIGNATURE, RememberedCall, ScriptedEngine, StagingEngine


def deliver(executed: list[Executed]) -> None:
    for part in executed:
        first = 0
        for call in part.calls:
            if isinstance(part.outcome, SlipwayError):
                call.failed(part.outcome)
            else:
                call.answered(part.outcome, first)
            first += call.rows


def execute(engine: ScriptedEngine, calls: list[RememberedCall], **options: bool) -> None:
    deliver(Executor(engine, SIGNATURE, Settings(**options)).execute(calls))  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", [ScriptedEngine, StagingEngine])
@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_every_call_gets_its_own_rows_back(engine: type[ScriptedEngine], sizes: list[int]) -> None:
    calls = [RememberedCall(*[[n, row] for row in range(size)]) for n, size in enumerate(sizes)]
    execute(engine(), calls)
    for n, call in enumerate(calls):
        assert call.values == [[2.0 * n, 2.0 * row] for row in range(call.rows)]


def test_a_row_the_engine_chokes_on_fails_alone() -> None:
    class Choking(ScriptedEngine):
        def run_instead(self, rows: np.ndarray) -> list[np.ndarray]:
            if (rows == 13).any():
                raise RuntimeError("13")
            return super().run_instead(rows)

    calls = [RememberedCall([n, n]) for n in range(16)]
    execute(Choking(), calls)
    assert isinstance(calls[13].error, ModelFault)
    assert [call.values for n, call in enumerate(calls) if n != 13] == [
        [[2 * n, 2 * n]] for n in range(16) if n != 13
    ]


def test_a_nan_answer_fails_only_the_call_it_belongs_to() -> None:
    class Poisoned(ScriptedEngine):
        def run_instead(self, rows: np.ndarray) -> list[np.ndarray]:
            return [np.where(rows == 3, np.nan, rows)]

    calls = [RememberedCall([n, 0]) for n in range(6)]
    execute(Poisoned(), calls)
    assert [call.error is not None for call in calls] == [n == 3 for n in range(6)]
    assert isinstance(calls[3].error, ModelFault)


def test_nan_in_the_input_is_its_senders_mistake_alone() -> None:
    calls = [RememberedCall([n, 0]) for n in range(5)]
    calls.insert(2, RememberedCall([np.inf, 0]))
    execute(ScriptedEngine(), calls)
    assert isinstance(calls[2].error, Refused)
    assert sum(call.values is not None for call in calls) == 5


def test_what_fills_a_batch_up_is_no_rest_of_the_last_one() -> None:
    """A larger batch left its rows behind: whatever they were, nobody is answered or refused for them."""
    engine = StagingEngine()
    engine.places[4][:] = np.inf
    calls = [RememberedCall([1, 2]), RememberedCall([3, 4], [5, 6])]
    execute(engine, calls)
    assert [call.values for call in calls] == [[[2, 4]], [[6, 8], [10, 12]]]
    np.testing.assert_array_equal(engine.places[4], [[1, 2], [3, 4], [5, 6], [5, 6]])


def test_the_spec_can_allow_nan() -> None:
    call = RememberedCall([np.inf, 0])
    execute(ScriptedEngine(), [call], finite_inputs=False, finite_outputs=False)
    assert call.values == [[float("inf"), 0]]


def test_a_batch_too_large_for_memory_is_halved() -> None:
    class Small(ScriptedEngine):
        def run_instead(self, rows: np.ndarray) -> list[np.ndarray]:
            if len(rows) > 3:
                raise EngineOutOfMemory("no room")
            return super().run_instead(rows)

    engine, calls = Small(), [RememberedCall([n, n]) for n in range(10)]
    execute(engine, calls)
    assert [call.values for call in calls] == [[[2 * n, 2 * n]] for n in range(10)]
    assert max(engine.batches[1:]) < 10


def test_one_request_too_large_for_memory_is_run_in_pieces() -> None:
    class Small(ScriptedEngine):
        def run_instead(self, rows: np.ndarray) -> list[np.ndarray]:
            if len(rows) > 3:
                raise EngineOutOfMemory("no room")
            return super().run_instead(rows)

    call = RememberedCall(*[[n, n] for n in range(10)])
    execute(Small(), [call])
    assert call.values == [[2 * n, 2 * n] for n in range(10)]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda rows: [rows[:-1]],
        lambda rows: [rows[:, :1]],
        lambda rows: [rows.astype(np.float64)],
        lambda rows: [rows[0]],
    ],
)
def test_an_output_of_the_wrong_shape_or_type_is_the_models_fault(wrong: object) -> None:
    engine = ScriptedEngine()
    engine.run_instead = wrong  # type: ignore[method-assign,assignment]
    calls = [RememberedCall([1, 2]), RememberedCall([3, 4])]
    execute(engine, calls)
    assert all(isinstance(call.error, ModelFault) for call in calls)


def test_batches_are_rounded_up_to_what_the_engine_was_built_for() -> None:
    engine = ScriptedEngine(profiles=(1, 4, 8))
    calls = [RememberedCall([n, n]) for n in range(5)]
    execute(engine, calls)
    assert engine.batches == [8]
    assert [call.values for call in calls] == [[[2 * n, 2 * n]] for n in range(5)]


def test_more_rows_than_the_largest_profile_are_run_in_pieces() -> None:
    engine = ScriptedEngine(profiles=(1, 4))
    call = RememberedCall(*[[n, n] for n in range(9)])
    execute(engine, [call])
    assert call.values == [[2 * n, 2 * n] for n in range(9)]
    assert set(engine.batches) <= {1, 4}
