"""What every engine promises. Subclass `EngineContract` with a fixture `engine` that serves `doubling()`."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.engines.base import Engine
from model_store.engines.manifest import Settings
from model_store.engines.signature import Signature, tensor_spec
from serving.pod.execution import Executor

# x [N, 3] to y = 2 x.
SIGNATURE = Signature.of((tensor_spec("x", "FP32", [-1, 3]),), (tensor_spec("y", "FP32", [-1, 3]),))
MOST_ROWS = 8


def rows(count: int, start: float = 0) -> np.ndarray:
    return (np.arange(count * 3, dtype=np.float32) + start).reshape(count, 3)


class EngineContract:
    """Sizes go through the `Executor`, which rounds to the engine's profiles as the pod does."""

    @pytest.fixture
    def executor(self, engine: Engine) -> Executor:
        return Executor(engine, SIGNATURE, Settings(max_batch_size=MOST_ROWS))

    @pytest.mark.parametrize("count", [1, 2, 3, 5, MOST_ROWS])
    def test_every_row_comes_back_in_its_place(self, executor: Executor, count: int) -> None:
        (found,) = executor.run_arrays([rows(count)])
        np.testing.assert_array_equal(found, 2 * rows(count))

    def test_more_rows_than_a_batch_are_computed_too(self, executor: Executor) -> None:
        (found,) = executor.run_arrays([rows(3 * MOST_ROWS + 1)])
        np.testing.assert_array_equal(found, 2 * rows(3 * MOST_ROWS + 1))

    def test_an_answer_is_not_changed_by_the_next_batch(self, executor: Executor) -> None:
        (first,) = executor.run_arrays([rows(4)])
        executor.run_arrays([rows(4, start=1000)])
        np.testing.assert_array_equal(first, 2 * rows(4))

    def test_sizes_may_alternate(self, executor: Executor) -> None:
        for count in (MOST_ROWS, 1, 7, 1, MOST_ROWS):
            (found,) = executor.run_arrays([rows(count, start=count)])
            np.testing.assert_array_equal(found, 2 * rows(count, start=count))

    def test_read_only_input_is_taken(self, executor: Executor) -> None:
        array = rows(2)
        array.flags.writeable = False
        (found,) = executor.run_arrays([array])
        np.testing.assert_array_equal(found, 2 * array)

    def test_profiles_rise_and_memory_is_told(self, engine: Engine) -> None:
        assert list(engine.profiles) == sorted(set(engine.profiles))
        assert engine.memory_bytes() >= 0
        assert engine.platform
