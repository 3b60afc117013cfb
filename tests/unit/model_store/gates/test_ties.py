"""The last digit of a sum decides for nobody: the export and the gates forgive the same rows."""

from __future__ import annotations

import numpy as np

from model_store.engines.noise import rows_that_differ, tied
from model_store.gates.exam import Answered
from model_store.metrics.base import Prediction

HALVES = np.array([[0.5, 0.5], [0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])


def answered(name: str, decisions: list[int], scores: np.ndarray) -> Answered:
    said = Prediction(np.array(decisions), scores, are_probabilities=True)
    return Answered(name, said, np.zeros(len(decisions), bool))


def decided(original: Answered, other: Answered) -> list[int]:
    read = other.deciding_ties_as(original, tie=2e-4, noise=1e-3)
    assert read.said.decisions is not None
    return read.said.decisions.tolist()


def test_at_a_tie_of_both_the_originals_decision_stands_and_nowhere_else() -> None:
    original = answered("original", [0, 1, 0, 1], HALVES)
    candidate = answered("fp32", [1, 0, 1, 0], HALVES + np.array([1e-7, -1e-7]))
    assert decided(original, candidate) == [0, 1, 1, 0]


def test_a_candidate_that_is_sure_where_the_original_ties_has_decided() -> None:
    original = answered("original", [0, 1, 0, 1], HALVES)
    candidate = answered("int8", [1, 0, 0, 1], np.array([[0.1, 0.9], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]))
    assert decided(original, candidate) == [1, 0, 0, 1]


def test_a_row_that_was_not_answered_is_not_forgiven() -> None:
    original = answered("original", [0, 1, 0, 1], HALVES)
    said = Prediction(np.array([-1, -1, 0, 1]), HALVES, are_probabilities=True)
    broken = Answered("fp32", said, np.array([True, True, False, False]))
    assert decided(original, broken) == [-1, -1, 0, 1]


def test_of_labels_alone_nothing_is_forgiven() -> None:
    labels = Answered("fp32", Prediction(np.array([1, 0])), np.zeros(2, bool))
    other = Answered("original", Prediction(np.array([0, 1])), np.zeros(2, bool))
    assert decided(other, labels) == [1, 0]


def test_a_label_may_flip_between_batches_only_where_its_scores_tie() -> None:
    alone = {"label": np.array([0, 0, 0, 1]), "p": HALVES}
    assert rows_that_differ(alone, {**alone, "label": np.array([1, 1, 0, 1])}, 1e-3) == 0
    assert rows_that_differ(alone, {**alone, "label": np.array([0, 0, 1, 0])}, 1e-3) == 2
    assert rows_that_differ(alone, {**alone, "p": HALVES + 0.1 * np.eye(4, 2)}, 1e-3) == 2


def test_nan_is_only_nan() -> None:
    one, other = {"x": np.array([np.nan, 1.0, np.inf])}, {"x": np.array([np.nan, np.nan, np.inf])}
    assert rows_that_differ(one, other, 1e-3) == 1
    assert rows_that_differ(one, one, 1e-3) == 0


def test_one_column_never_ties() -> None:
    assert not tied(np.zeros((3, 1)), 1.0).any()
    assert not tied(np.zeros(3), 1.0).any()
