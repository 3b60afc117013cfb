"""The original must know more than whoever looks at no input, and not the opposite of the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model_store.gates.exam import Exam
from model_store.gates.sanity import NoBetterThanTrivial, refuse_mirrored, refuse_trivial
from tests.unit.model_store.gates.test_judge import Outputs, answered, exam, fraud, gates, outputs, world

Array = np.ndarray[Any, Any]


def refuse(answers: Outputs, labels: Array, **said: Any) -> None:
    on: Exam = exam(answers, labels, gates(**said.pop("limits", {})), **said)
    refuse_trivial(answered("original", answers, on.reading), on)


def noise(rows: int = 1000, seed: int = 0) -> tuple[Outputs, Array]:
    rng = np.random.default_rng(seed)
    return outputs(rng.random(rows)), rng.integers(0, 2, rows)


def test_a_model_that_learnt_something_is_sane() -> None:
    original, _, labels, _ = world()
    refuse(original, labels)


def test_noise_is_refused_with_both_numbers_unless_the_spec_allows_it() -> None:
    answers, labels = noise()
    with pytest.raises(NoBetterThanTrivial, match=r"accuracy 0\.\d+, and without looking 0\.5\d*"):
        refuse(answers, labels)
    refuse(answers, labels, limits={"must_beat_trivial": False})


def test_noise_passes_seldom_and_what_is_a_little_better_on_many_rows_always() -> None:
    passed = 0
    for seed in range(40):
        answers, labels = noise(400, seed)
        try:
            refuse(answers, labels, limits={"auc": None})
            passed += 1
        except NoBetterThanTrivial:
            continue
    assert passed <= 8
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 20_000)
    refuse(outputs(np.clip(0.5 + 0.03 * (2 * labels - 1) + rng.normal(size=20_000) * 0.3, 0, 1)), labels)


def test_a_model_that_ranks_well_is_sane_though_it_is_right_less_often_than_the_majority() -> None:
    """Trained with balanced weights on 5 % positives: many false alarms, most positives found."""
    rng = np.random.default_rng(2)
    labels = (rng.random(4000) < 0.05).astype(np.int64)
    answers = outputs(np.clip(0.35 + 0.4 * labels + rng.normal(size=4000) * 0.2, 0, 1))
    assert np.mean(answers["label"] == labels) < 0.9
    refuse(answers, labels)


def test_an_auc_clearly_under_a_half_looks_like_the_wrong_way_round() -> None:
    original, _, labels, _ = world()
    with pytest.raises(NoBetterThanTrivial, match=r"AUC is 0\.\d+, clearly under(?s:.*)classes: \[1, 0\]"):
        refuse(outputs(1 - original["probabilities"][:, 1].astype(np.float64)), labels)


def three_classes(rows: int = 600) -> tuple[Array, Array]:
    """Probabilities whose largest is mostly right, and the labels."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, rows)
    logits = 2.0 * np.eye(3)[labels] + rng.normal(size=(rows, 3))
    return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32), labels


def test_a_label_that_contradicts_good_scores_is_refused() -> None:
    shares, labels = three_classes()
    refuse({"label": np.argmax(shares, axis=1), "probabilities": shares}, labels)
    with pytest.raises(
        NoBetterThanTrivial, match=r"label contradicts its scores: .*AUC 0\.9\d+.* under 0\.3333"
    ):
        refuse({"label": np.argmin(shares, axis=1), "probabilities": shares}, labels)


def test_a_champion_read_the_wrong_way_round_is_no_yardstick() -> None:
    shares, labels = three_classes()
    spec = {"task": "multiclass", "classes": [0, 1, 2]}
    on = exam({"probabilities": shares}, labels, gates(), **spec)
    refuse_mirrored(answered("v1", {"probabilities": shares}, on.reading), on)
    turned = answered("v1", {"probabilities": shares[:, [2, 0, 1]]}, on.reading)
    with pytest.raises(NoBetterThanTrivial, match=r"AUC of champion v1 is 0\.\d+, clearly under"):
        refuse_mirrored(turned, on)


def test_the_same_answer_to_every_row_is_refused_where_decisions_are_gated() -> None:
    nothing, labels = fraud(0.0)
    written = {"accuracy": {"max_drop": 0.01}}
    with pytest.raises(NoBetterThanTrivial, match=r"answers 0 to all 5000 rows, so gates.accuracy compares"):
        refuse(nothing, labels, limits=written)
    refuse(nothing, labels, limits={"accuracy": None, "auc": {"max_drop": 0.01}})


def test_a_regression_must_beat_the_mean() -> None:
    rng = np.random.default_rng(3)
    amounts = rng.normal(size=800)
    refuse({"y": (amounts + rng.normal(size=800) / 2).astype(np.float32)}, amounts, task="regression")
    with pytest.raises(NoBetterThanTrivial, match=r"mae 1\.\d+, and without looking 0\.\d+"):
        refuse({"y": rng.normal(size=800).astype(np.float32)}, amounts, task="regression")
