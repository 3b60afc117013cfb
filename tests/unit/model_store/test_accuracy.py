"""The accuracy gate: its statistics against known values and simulation, and every limit seen to fail."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.errors import Permanent
from model_store.gates.accuracy import Answers, judge_accuracy
from model_store.gates.accuracy.gate import Truth
from model_store.gates.accuracy.paired import accuracy_difference, auc_difference, midranks, tango_lower_bound
from model_store.gates.readout import Readout, Unreadable
from model_store.release_spec import Gates, Margin, SliceMargin
from model_store.types import Check

Z = NormalDist().inv_cdf(0.95)


# Tango's bound


def test_without_any_disagreement_the_bound_is_the_closed_form() -> None:
    """With no discordant row the score equation reduces to delta = -z^2 / (n + z^2)."""
    for rows in (50, 300, 5000):
        assert tango_lower_bound(0, 0, rows, 0.95) == pytest.approx(-(Z**2) / (rows + Z**2), abs=1e-8)


def test_the_bound_is_where_the_constrained_likelihood_says() -> None:
    """Independent of our closed form: maximize the likelihood numerically under p12 - p21 = delta."""
    from scipy.optimize import brentq, minimize_scalar

    def score(gained: int, lost: int, rows: int, delta: float) -> float:
        def loss(only_reference: float) -> float:
            both = 1 - 2 * only_reference - delta
            parts = ((gained, only_reference + delta), (lost, only_reference), (rows - gained - lost, both))
            return -sum(count * np.log(max(share, 1e-300)) for count, share in parts if count)

        low, high = max(0.0, -delta), (1 - delta) / 2
        found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
        return (gained - lost - rows * delta) / sqrt(rows * (2 * found + delta - delta**2))

    for gained, lost, rows in [(10, 12, 1335), (3, 9, 200), (40, 20, 160), (1, 30, 400)]:
        highest = (gained - lost) / rows
        expected = brentq(lambda d, g=gained, x=lost, n=rows: score(g, x, n, d) - Z, -0.9, highest)
        assert tango_lower_bound(gained, lost, rows, 0.95) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("gained", "lost", "rows"), [(0.02, 0.02, 500), (0.01, 0.03, 300), (0.005, 0.015, 1300), (0.1, 0.1, 100)]
)
def test_the_bound_covers_as_often_as_it_says(gained: float, lost: float, rows: int) -> None:
    """A candidate exactly at the margin passes in at most about 5 % of 4,000 simulated evaluations."""
    rng = np.random.default_rng(8)
    drawn = rng.multinomial(rows, [gained, lost, 1 - gained - lost], size=4000)
    bounds = [tango_lower_bound(int(g), int(x), rows, 0.95) for g, x, _ in drawn]
    wrong = np.mean(np.array(bounds) > gained - lost)
    assert 0.03 < wrong < 0.065


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(80, 400))
def test_the_bound_is_below_the_difference_and_falls_with_losses(gained: int, lost: int, rows: int) -> None:
    bound = tango_lower_bound(gained, lost, rows, 0.95)
    assert -1 <= bound <= (gained - lost) / rows
    assert tango_lower_bound(gained, lost + 1, rows, 0.95) < bound + 1e-12
    assert tango_lower_bound(gained, lost, rows, 0.99) <= bound + 1e-12


def test_more_rows_with_the_same_shares_say_more() -> None:
    assert tango_lower_bound(5, 5, 500, 0.95) < tango_lower_bound(50, 50, 5000, 0.95) < 0


# DeLong


def placements_by_hand(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wins = (scores[positive][:, None] > scores[~positive][None, :]) + 0.5 * (
        scores[positive][:, None] == scores[~positive][None, :]
    )
    return wins.mean(axis=1), wins.mean(axis=0)


def test_auc_and_its_bound_equal_the_definition_with_ties() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(4)
    positive = rng.random(300) < 0.3
    reference = np.round(rng.normal(size=300) + positive, 1)
    candidate = np.round(reference + rng.normal(size=300) * 0.4, 1)
    found = auc_difference(reference, candidate, positive, 0.95)
    assert found.reference == pytest.approx(roc_auc_score(positive, reference))
    assert found.candidate == pytest.approx(roc_auc_score(positive, candidate))
    (a_pos, a_neg), (b_pos, b_neg) = (placements_by_hand(s, positive) for s in (reference, candidate))
    covariance = np.cov(a_pos, b_pos) / positive.sum() + np.cov(a_neg, b_neg) / (~positive).sum()
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert found.lower == pytest.approx(found.value - Z * sqrt(variance))


def test_the_auc_bound_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    # Two noisy views of one signal: AUC of N(1, s) against N(0, s) is Phi(1 / (s sqrt 2)).
    truth = NormalDist().cdf(1 / sqrt(2 * 1.5)) - NormalDist().cdf(1 / sqrt(2 * 1.2))
    wrong = 0
    for _ in range(1500):
        positive = np.arange(400) < 120
        common = rng.normal(size=400) + positive
        reference = common + rng.normal(size=400) * sqrt(0.2)
        candidate = common + rng.normal(size=400) * sqrt(0.5)
        wrong += auc_difference(reference, candidate, positive, 0.95).lower > truth
    assert 0.03 < wrong / 1500 < 0.07


def test_midranks_are_scipys() -> None:
    from scipy.stats import rankdata

    values = np.array([3.0, 1, 3, 3, 0, 7, 1])
    assert midranks(values).tolist() == rankdata(values).tolist()


def test_auc_of_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="two rows of each class"):
        auc_difference(np.zeros(5), np.zeros(5), np.array([True, False, False, False, False]), 0.95)


def test_accuracy_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        accuracy_difference(np.zeros(0, bool), np.zeros(0, bool), 0.95)


# the gate


def world(rows: int = 2000, *, flip: float = 0.0) -> tuple[Answers, Answers, Truth]:
    """An original that is right on about 80 %, and a candidate that turns some of its answers round."""
    rng = np.random.default_rng(0)
    labels = (rng.random(rows) < 0.3).astype(np.int64)
    scores = np.clip(0.25 + 0.5 * labels + rng.normal(size=rows) * 0.28, 0.01, 0.99)
    flipped = np.where(rng.random(rows) < flip, 1 - scores, scores)
    slices = {"Home": np.array(["own", "rent", "other"], object)[rng.choice(3, rows, p=[0.6, 0.38, 0.02])]}
    truth = Truth(labels, labels == 1, slices)
    return answers("original", scores), answers("candidate", flipped), truth


def answers(name: str, scores: np.ndarray) -> Answers:
    outputs = {
        "label": (scores > 0.5).astype(np.int64),
        "probabilities": np.stack([1 - scores, scores], axis=1).astype(np.float32),
    }
    return Answers(name, outputs, Readout.find(outputs))


def failed(checks: tuple[Check, ...]) -> list[str]:
    return [check.name for check in checks if not check.passed]


GATES = Gates(accuracy=Margin(max_drop=0.01), auc=Margin(max_drop=0.01), slices=None)


def test_an_equal_candidate_passes_every_check() -> None:
    original, candidate, truth = world()
    checks = judge_accuracy(original, candidate, truth, GATES)
    assert failed(checks) == []
    assert [check.name for check in checks] == [
        "finite answers",
        "accuracy non-inferiority",
        "auc non-inferiority",
    ]


def test_a_candidate_that_lost_accuracy_fails_and_says_the_numbers() -> None:
    checks = judge_accuracy(*world(flip=0.05), GATES)
    assert "accuracy non-inferiority" in failed(checks)
    check = next(check for check in checks if check.name == "accuracy non-inferiority")
    assert check.observed < check.limit == -0.01
    assert "with 95% confidence at least -0.0" in check.detail
    assert check.reference > check.value


def test_a_drop_within_the_margin_still_fails_when_the_rows_cannot_prove_it() -> None:
    """60 rows that all agree do not show that fewer than 1 % are lost."""
    original, candidate, truth = world(60)
    checks = judge_accuracy(original, candidate, truth, GATES)
    assert "accuracy non-inferiority" in failed(checks)
    wider = Gates(accuracy=Margin(max_drop=0.05), auc=None)
    assert failed(judge_accuracy(original, candidate, truth, wider)) == []


def test_scores_that_lost_their_order_fail_on_auc_alone() -> None:
    original, _, truth = world()
    scores = original.outputs["probabilities"][:, 1]
    # The decision stays; how sure it is becomes noise.
    noise = np.random.default_rng(0).random(len(scores)) * 0.49
    shuffled = answers("candidate", np.where(scores > 0.5, 0.5001 + noise, noise))
    assert failed(judge_accuracy(original, shuffled, truth, GATES)) == ["auc non-inferiority"]


@pytest.mark.parametrize("gate", ["accuracy", "auc"])
def test_an_absolute_minimum_blocks_also_a_faithful_copy_of_a_bad_model(gate: str) -> None:
    original, candidate, truth = world()
    gates = GATES.model_copy(update={gate: Margin(max_drop=0.01, min=0.99)})
    assert failed(judge_accuracy(original, candidate, truth, gates)) == [f"{gate} minimum"]


def test_nan_and_infinity_fail_and_count_as_wrong_answers() -> None:
    original, candidate, truth = world()
    for bad in (np.nan, np.inf, -np.inf):
        outputs = {name: values.copy() for name, values in candidate.outputs.items()}
        outputs["probabilities"][7, 1] = bad
        checks = judge_accuracy(original, Answers("nan", outputs, candidate.readout), truth, GATES)
        assert failed(checks) == ["finite answers", "auc non-inferiority"]
        assert "1 of 2000 rows" in checks[0].detail
        assert "row 7" in checks[0].detail


def test_a_candidate_of_all_nan_fails_on_accuracy_too() -> None:
    original, candidate, truth = world()
    outputs = {**candidate.outputs, "probabilities": np.full((2000, 2), np.nan, np.float32)}
    checks = judge_accuracy(original, Answers("nan", outputs, candidate.readout), truth, GATES)
    assert "accuracy non-inferiority" in failed(checks)


def harmed_slice(slice_: str) -> tuple[Answers, Answers, Truth]:
    original, _, truth = world(4000)
    scores = original.outputs["probabilities"][:, 1].copy()
    hit = (truth.slices["Home"] == slice_) & (np.random.default_rng(1).random(4000) < 0.2)
    scores[hit] = 1 - scores[hit]
    return original, answers("candidate", scores), truth


def test_a_slice_that_lost_fails_though_the_whole_passes() -> None:
    gates = Gates(accuracy=Margin(max_drop=0.2), auc=None, slices=SliceMargin(max_drop=0.05, min_rows=100))
    assert failed(judge_accuracy(*harmed_slice("rent"), gates)) == ["accuracy [Home=rent] non-inferiority"]


def test_a_slice_with_too_few_rows_is_reported_and_not_judged() -> None:
    gates = Gates(accuracy=Margin(max_drop=0.2), auc=None, slices=SliceMargin(max_drop=0.05, min_rows=200))
    checks = judge_accuracy(*harmed_slice("other"), gates)
    assert failed(checks) == []
    small = next(check for check in checks if "Home=other" in check.name)
    assert "reported, not judged" in small.detail
    assert small.observed < -0.05
    judged = gates.model_copy(update={"slices": SliceMargin(max_drop=0.05, min_rows=20)})
    assert failed(judge_accuracy(*harmed_slice("other"), judged)) == ["accuracy [Home=other] non-inferiority"]


def test_a_minimum_for_slices_blocks_a_slice_the_model_never_served_well() -> None:
    gates = Gates(
        accuracy=Margin(max_drop=0.2), auc=None, slices=SliceMargin(max_drop=0.4, min=0.99, min_rows=100)
    )
    names = failed(judge_accuracy(*world(), gates))
    assert names == ["accuracy [Home=own] minimum", "accuracy [Home=rent] minimum"]


def test_slices_are_judged_on_auc_where_both_classes_are_there() -> None:
    gates = Gates(accuracy=Margin(max_drop=0.4), auc=Margin(max_drop=0.4), slices=SliceMargin(max_drop=0.02))
    checks = judge_accuracy(*world(flip=0.1), gates)
    assert "auc [Home=rent] non-inferiority" in failed(checks)


def test_losing_to_the_champion_blocks_a_faithful_copy_of_a_worse_model() -> None:
    champion, worse, truth = world(flip=0.1)
    gates = GATES.model_copy(update={"champion": Margin(max_drop=0.02)})
    named = Answers("v1", champion.outputs, champion.readout)
    checks = judge_accuracy(worse, worse, truth, gates, champion=named)
    assert failed(checks) == ["accuracy against champion v1 non-inferiority"]
    assert failed(judge_accuracy(worse, worse, truth, gates, champion=None)) == []


def test_no_evaluation_rows_is_an_error_and_never_a_pass() -> None:
    original, candidate, _ = world()
    empty = Truth(np.zeros(0, np.int64), np.zeros(0, bool), {})
    with pytest.raises(Permanent, match="no evaluation rows"):
        judge_accuracy(original, candidate, empty, GATES)


def test_a_limit_on_auc_without_scores_says_what_to_do() -> None:
    original, candidate, truth = world()
    bare = {"label": original.outputs["label"]}
    labels = Answers("labels", bare, Readout.find(bare))
    with pytest.raises(Permanent, match=r"only labels\n  remedy: export it with probabilities"):
        judge_accuracy(labels, candidate, truth, GATES)


# reading outputs


def test_text_labels_are_read_by_the_positive_class() -> None:
    outputs = {
        "label": np.array(["bad", "good", "bad"], object),
        "scores": np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], np.float32),
    }
    readout = Readout.find(outputs, positive="bad")
    assert readout.decisions(outputs).tolist() == [1, 0, 1]
    assert readout.positive_scores(outputs).tolist() == pytest.approx([0.9, 0.2, 0.7])


@pytest.mark.parametrize(
    ("scores", "decided"),
    [
        ([[0.1], [0.9]], [0, 1]),
        ([-3.0, 2.0], [0, 1]),
        ([[1.0, 5.0, 2.0], [9.0, 1.0, 1.0]], [1, 0]),
    ],
)
def test_scores_alone_decide(scores: list, decided: list[int]) -> None:
    outputs = {"y": np.array(scores, np.float32)}
    assert Readout.find(outputs).decisions(outputs).tolist() == decided


def test_probabilities_win_over_other_float_outputs() -> None:
    outputs = {"embedding": np.zeros((3, 8), np.float32), "class_prob": np.eye(3, 2, dtype=np.float32)}
    assert Readout.find(outputs).scores == "class_prob"


def test_outputs_of_no_classifier_are_refused_with_what_was_seen() -> None:
    with pytest.raises(Unreadable, match=r"image float32\[2, 3, 4, 4\]"):
        Readout.find({"image": np.zeros((2, 3, 4, 4), np.float32)})


def test_outputs_without_a_batch_are_refused() -> None:
    outputs = {"label": np.zeros(3, np.int64), "probabilities": np.zeros((1, 2), np.float32)}
    with pytest.raises(Permanent, match="different numbers of rows"):
        Answers("odd", outputs, Readout("label", "probabilities", "1", 1, 0.5))
