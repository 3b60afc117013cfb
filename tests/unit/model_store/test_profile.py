"""Latency and size: a ratio that noise on the machine does not move, and limits that are seen to fail."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from model_store.gates.profile import Profile, _interval, judge_profile, measure
from model_store.inference import open_session
from model_store.release_spec import Gates, LatencyLimit, SizeLimit
from model_store.storage.store import Store
from model_store.types import Artifact, Toolchain
from tests.small_models import Credit

ARTIFACT = Artifact("sha256:00", "onnx", "fp32", None, Toolchain("t", "1"), Path("m"), 3_000_000)


class Machine:
    """A clock and models that advance it: `cost(rows)` seconds a call, times how busy the machine is."""

    def __init__(self, busy=lambda now: 1.0) -> None:
        self.now, self.busy, self.batches = 0.0, busy, []

    def clock(self) -> float:
        return self.now

    def model(self, cost):
        def run(feed):
            rows = len(feed["x"])
            self.batches.append(rows)
            self.now += cost(rows) * self.busy(self.now)

        return run


def profile(machine: Machine, candidate, baseline, rows: int = 100) -> Profile:
    return measure(
        machine.model(candidate),
        machine.model(baseline),
        {"x": np.zeros((rows, 3), np.float32)},
        artifact=ARTIFACT,
        max_batch_size=32,
        clock=machine.clock,
    )


def test_latency_throughput_and_size_are_what_the_clock_says() -> None:
    found = profile(Machine(), lambda rows: 1e-3 + 1e-4 * rows, lambda rows: 2e-3 + 2e-4 * rows)
    assert found.p50_ms == pytest.approx(1.1)
    assert found.p99_ms == pytest.approx(1.1)
    assert found.baseline_p50_ms == pytest.approx(2.2)
    assert found.latency_ratio == pytest.approx(0.5)
    assert found.rows_per_second == pytest.approx(32 / 4.2e-3)
    assert found.throughput_ratio == pytest.approx(2.0)
    assert found.size_bytes == 3_000_000


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_interval_of_the_ratio_is_as_wide_as_its_blocks_disagree(noise: float) -> None:
    random = np.random.default_rng(0)
    machine = Machine(busy=lambda now: 1.0 + noise * random.random())
    found = profile(machine, lambda rows: 1.04e-3, lambda rows: 1e-3)
    low, high = found.latency_interval
    assert low <= found.latency_ratio <= high
    assert low == pytest.approx(1.04, rel=0.05)
    assert (high - low < 1e-9) is (noise == 0)


def test_the_interval_of_a_median_covers_it_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    for blocks in (6, 20):
        found = [_interval(random.normal(size=blocks)) for _ in range(2000)]
        assert 0.94 < np.mean([low <= 0 <= high for low, high in found]) < 0.99


def test_a_model_of_seconds_a_row_is_not_measured_for_an_hour() -> None:
    machine = Machine()
    found = profile(machine, lambda rows: 2.0, lambda rows: 0.05)
    assert found.latency_ratio == pytest.approx(40)
    assert machine.now < 120


def test_a_machine_that_becomes_three_times_slower_half_way_does_not_move_the_ratio() -> None:
    machine = Machine(busy=lambda now: 3.0 if now > 0.4 else 1.0)
    found = profile(machine, lambda rows: 1.5e-3, lambda rows: 1e-3)
    assert found.latency_ratio == pytest.approx(1.5, rel=0.01)


def test_it_keeps_to_its_budget_and_to_the_batch_sizes_asked_for() -> None:
    machine = Machine()
    found = profile(machine, lambda rows: 1e-4, lambda rows: 1e-4)
    assert 1.4 < found.seconds < 1.7
    assert set(machine.batches) == {1, 32}


def test_a_slow_model_is_measured_enough_all_the_same() -> None:
    machine = Machine()
    found = profile(machine, lambda rows: 0.05, lambda rows: 0.05)
    assert found.latency_ratio == pytest.approx(1.0)
    assert machine.batches.count(1) >= 2 * 6 * 25
    # Whole batches of a transformer would take minutes else, and only their median is read.
    assert 2 * 6 * 3 <= machine.batches.count(32) <= 2 * 8 * 3


def test_fewer_rows_than_a_batch_are_repeated() -> None:
    machine = Machine()
    profile(machine, lambda rows: 1e-3, lambda rows: 1e-3, rows=5)
    assert set(machine.batches) == {1, 32}


def limits(**changes: float) -> Gates:
    size = changes.pop("max_mb", None)
    return Gates(latency=LatencyLimit(**changes), size=SizeLimit(max_mb=size) if size else None)


def test_only_limits_that_are_set_are_checked() -> None:
    found = profile(Machine(), lambda rows: 1e-3, lambda rows: 1e-3)
    assert judge_profile(found, Gates()) == ()


@pytest.mark.parametrize(
    ("limit", "enough", "name"),
    [
        ({"max_p99_ms": 0.9}, {"max_p99_ms": 1.1}, "latency p99 ms"),
        ({"max_ratio": 0.4}, {"max_ratio": 0.6}, "latency ratio"),
        ({"max_mb": 2.9}, {"max_mb": 3.1}, "size MB"),
    ],
)
def test_each_limit_fails_when_it_is_exceeded_and_passes_when_it_is_not(limit, enough, name: str) -> None:
    found = profile(Machine(), lambda rows: 1e-3, lambda rows: 2e-3)
    [check] = judge_profile(found, limits(**limit))
    assert (check.name, check.passed) == (name, False)
    assert check.observed > check.limit
    [check] = judge_profile(found, limits(**enough))
    assert check.passed


def test_a_real_model_against_itself_has_a_ratio_near_one(credit: Credit, store: Store) -> None:
    sessions = [open_session(credit.onnx) for _ in range(2)]
    begin = time.perf_counter()
    found = measure(
        lambda feed: sessions[0].run(None, feed),
        lambda feed: sessions[1].run(None, feed),
        credit.evaluation,
        artifact=ARTIFACT,
        max_batch_size=32,
        budget_seconds=0.6,
    )
    assert 0.7 < found.latency_ratio < 1.4
    assert found.p50_ms <= found.p99_ms
    assert found.seconds == pytest.approx(time.perf_counter() - begin, rel=0.5)
