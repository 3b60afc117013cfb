"""Identical requests in flight are computed once; kept answers are each their own bundle's and request's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.engines.errors import Abandoned, Expired, ModelFault
from model_store.engines.manifest import CacheSettings, Settings
from serving.pod.answers import Answers
from serving.pod.call import BatchOutputs, Call
from tests.unit.serving.pod.calls import SIGNATURE, RememberedCall, manifest_of


def doubled(call: Call) -> BatchOutputs:
    return BatchOutputs([np.frombuffer(call.data[0], np.float32).reshape(-1, 2) * 2], SIGNATURE)  # type: ignore[arg-type]


class World:
    """Answers in front of an engine that computes when told."""

    def __init__(self, **options: object) -> None:
        self.computing: list[Call] = []
        self.now = 0.0
        settings = Settings(**options)  # type: ignore[arg-type]
        answers = Answers.of(manifest_of(settings), self.computing.append, clock=lambda: self.now)
        assert answers is not None
        self.answers = answers

    def ask(self, call: RememberedCall) -> RememberedCall:
        if not self.answers.settle(call, self.now):
            self.computing.append(call)
        return call

    def finish(self) -> None:
        while self.computing:
            call = self.computing.pop(0)
            outputs = doubled(call)
            call.answered(outputs, 0)
            self.answers.answered(call, outputs, 0, self.now)


def test_identical_calls_in_flight_are_computed_once_and_all_answered() -> None:
    world = World()
    same = [world.ask(RememberedCall([1, 2])) for _ in range(5)]
    other = world.ask(RememberedCall([2, 1]))
    assert len(world.computing) == 2
    world.finish()
    assert all(call.values == [[2, 4]] for call in same)
    assert other.values == [[4, 2]]
    assert not same[0].source
    assert all(call.source for call in same[1:])


def test_a_later_identical_call_is_computed_again_without_a_cache() -> None:
    world = World()
    world.ask(RememberedCall([1, 2]))
    world.finish()
    world.ask(RememberedCall([1, 2]))
    assert len(world.computing) == 1


def test_a_failing_model_fails_all_who_shared_the_call() -> None:
    world = World()
    calls = [world.ask(RememberedCall([1, 2])) for _ in range(3)]
    fault = ModelFault("broken")
    world.answers.failed(calls[0], fault)
    calls[0].failed(fault)
    assert all(call.error is fault for call in calls)


@pytest.mark.parametrize("reason", [Abandoned(), Expired()])
def test_a_leader_that_falls_away_takes_nobody_with_it(reason: Exception) -> None:
    world = World()
    calls = [world.ask(RememberedCall([1, 2])) for _ in range(3)]
    world.computing.clear()
    world.answers.failed(calls[0], reason)  # type: ignore[arg-type]
    assert world.computing == [calls[1]], "the next one leads"
    world.finish()
    assert calls[1].values == calls[2].values == [[2, 4]]


def test_an_urgent_call_does_not_wait_behind_a_lazy_one() -> None:
    world = World()
    lazy = world.ask(RememberedCall([1, 2], priority=2))
    urgent = world.ask(RememberedCall([1, 2], priority=0))
    assert world.computing == [lazy, urgent]
    world.finish()
    assert lazy.values == urgent.values == [[2, 4]]


def test_a_kept_answer_is_found_until_its_time_is_over() -> None:
    world = World(cache=CacheSettings(max_mb=1, ttl_seconds=10))
    world.ask(RememberedCall([1, 2]))
    world.finish()
    world.now = 9
    hit = world.ask(RememberedCall([1, 2]))
    assert hit.values == [[2, 4]]
    assert hit.source == b"x-slipway-cache: memory\r\n"
    world.now = 20
    assert world.ask(RememberedCall([1, 2])).values is None
    stale = world.answers.stale(hit)
    assert stale is not None, "past its time it is kept for the fallback"


def test_a_stochastic_model_is_never_shared_or_kept() -> None:
    assert (
        Answers.of(manifest_of(Settings(stochastic=True, cache=CacheSettings())), print, clock=float) is None
    )


def test_the_cache_is_bounded_by_bytes() -> None:
    world = World(cache=CacheSettings(max_mb=1))
    for n in range(5_000):
        world.ask(RememberedCall([n, n]))
        world.finish()
    assert world.answers.memory is not None
    assert world.answers.memory.size_bytes() <= 1024 * 1024
    assert 500 < world.answers.memory.entries() < 5_000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=40))
def test_nobody_ever_gets_another_requests_answer(script: list[tuple[int, int, bool]]) -> None:
    world = World(cache=CacheSettings(max_mb=1))
    asked = []
    for a, b, then_finish in script:
        asked.append((a, b, world.ask(RememberedCall([a, b]))))
        if then_finish:
            world.finish()
    world.finish()
    assert all(call.values == [[2 * a, 2 * b]] for a, b, call in asked)


def test_equal_bytes_of_different_shapes_are_different_calls() -> None:
    one, two = RememberedCall([1, 2], [3, 4]), RememberedCall([1, 2], [3, 4])
    two.shapes = [(1, 4)]
    from model_store.engines.signature import Signature, tensor_spec

    free = Signature.of((tensor_spec("x", "FP32", [-1, -1]),), (tensor_spec("y", "FP32", [-1, -1]),))
    assert one.identify(free) != two.identify(free)
