"""The rows that pods are asked again: kept as they are, and compared as gates compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store import build
from model_store.engines.noise import NOISE, noise_of
from model_store.stages import sample as samples
from model_store.stages.sample import Sample, sample_of
from model_store.stages.served import JudgedModel
from model_store.storage.store import Store
from tests.build_world import a_world, gated, hurry
from tests.small_models import Credit

Array = np.ndarray[Any, Any]


def scores(*values: float) -> Sample:
    column = np.array(values, np.float32)
    return Sample({"x": column[:, None]}, {"score": column}, NOISE["fp32"])


def test_text_whole_numbers_and_missing_values_are_kept_as_they_are() -> None:
    inputs: dict[str, Array] = {
        "text": np.array([["Grüße"], ["日本"]], object),
        "stamp": np.array([[1_700_000_000_000_001], [2]], np.int64),
        "amount": np.array([[0.1], [np.nan]], np.float64),
    }
    kept = Sample(inputs, {"label": np.array(["gut", "schlecht"], object)}, NOISE["fp16"])
    back = Sample.from_bytes(kept.to_bytes())
    assert back.noise == NOISE["fp16"]
    assert back.inputs["text"].tolist() == [["Grüße"], ["日本"]]
    assert back.inputs["stamp"].dtype == np.int64
    np.testing.assert_array_equal(back.inputs["stamp"], inputs["stamp"])
    np.testing.assert_array_equal(back.inputs["amount"], inputs["amount"])
    assert back.differing(kept.outputs) == 0


def test_sixty_four_rows_stand_for_all_from_the_first_to_the_last() -> None:
    rows = np.arange(1000, dtype=np.float32)
    taken = sample_of({"x": rows}, {"y": rows}, NOISE["fp32"])
    assert len(taken) == samples.MOST_ROWS
    assert (taken.inputs["x"][0], taken.inputs["x"][-1]) == (0, 999)


def test_rows_of_a_megabyte_are_fewer_and_one_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.zeros((10, 4), np.float32)
    monkeypatch.setattr(samples, "MOST_BYTES", 100)
    assert len(sample_of({"x": rows}, {"y": rows}, NOISE["fp32"])) == 3
    monkeypatch.setattr(samples, "MOST_BYTES", 1)
    assert len(sample_of({"x": rows}, {"y": rows}, NOISE["fp32"])) == 1


def test_what_batches_and_machines_change_is_no_difference_and_more_is() -> None:
    one = scores(0.5, 0.25, 0.75)
    assert one.differing({"score": np.array([0.5001, 0.25, 0.75], np.float32)}) == 0
    assert one.differing({"score": np.array([0.51, 0.25, 0.7], np.float32)}) == 2


@pytest.mark.parametrize(
    "answers",
    [{}, {"other": np.zeros(3, "f")}, {"score": np.zeros((3, 1), "f")}, {"score": np.zeros(2, "f")}],
)
def test_answers_of_another_form_are_refused_in_words(answers: dict[str, Array]) -> None:
    with pytest.raises(ValueError, match="in place of"):
        scores(0.5, 0.25, 0.75).differing(answers)


def test_the_gate_keeps_the_answers_of_the_file_that_is_served(
    tmp_path: Path, credit: Credit, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    ctx = a_world(Store(tmp_path / "store"), credit)
    (fp32,) = (one for one in gated(ctx) if one["variant"]["precision"] == "fp32")
    assert fp32["sample"] is not None
    kept = Sample.from_bytes(ctx.store.get_bytes(fp32["sample"]["blob"]))
    assert fp32["served"] is not None
    exported = build.export_stage(ctx)
    served = JudgedModel.of_artifact(ctx, exported, ctx.store.open(fp32["served"]), platform="onnxruntime")
    assert kept.differing(served.answer(kept.inputs)) == 0
    served.close()


def test_what_a_gpu_rounds_is_asked_of_its_pods_as_it_was_of_the_gates() -> None:
    """TF32: a row alone is multiplied by another kernel than in the batch that the gates saw."""
    assert noise_of("fp32", "onnxruntime") == NOISE["fp32"]
    assert noise_of("fp32", "onnxruntime_cuda") == NOISE["fp16"]
    assert noise_of("int8", "onnxruntime_cuda") == NOISE["int8"]
    kept = Sample({"x": np.ones(1)}, {"score": np.ones(1)}, noise_of("fp32", "onnxruntime_cuda"))
    back = Sample.from_bytes(kept.to_bytes())
    assert (back.differing({"score": np.full(1, 1.005)}), back.differing({"score": np.full(1, 1.02)})) == (
        0,
        1,
    )
