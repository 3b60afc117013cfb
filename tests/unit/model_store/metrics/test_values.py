"""Values are scikit-learn's, or counted by hand; what rows cannot say is refused with the reason."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as skm
from sklearn.calibration import calibration_curve

from model_store.errors import Permanent
from model_store.metrics import Prediction, TooFewRows, Truth, known, metric

rng = np.random.default_rng()
N = 400


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same rows for a test, whichever ran before it."""
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


def binary(share: float = 0.3, rows: int = N) -> tuple[Truth, Prediction]:
    y = (rng.random(rows) < share).astype(np.int64)
    y[:2] = 0, 1
    p = 1 / (1 + np.exp(-np.round(rng.normal(size=rows) + 2 * y - 1, 1)))
    return Truth(y, 2), Prediction((p > 0.5).astype(np.int64), np.c_[1 - p, p], are_probabilities=True)


def multiclass(classes: int = 4) -> tuple[Truth, Prediction]:
    y = rng.integers(0, classes, N)
    scores = rng.normal(size=(N, classes)) + 1.5 * np.eye(classes)[y]
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return Truth(y, classes), Prediction(p.argmax(axis=1), p, are_probabilities=True)


def multilabel(labels: int = 3) -> tuple[Truth, Prediction]:
    y = (rng.random((N, labels)) < [0.2, 0.5, 0.1]).astype(np.int64)
    p = 1 / (1 + np.exp(-rng.normal(size=y.shape) - 2 * y + 1))
    return Truth(y, labels), Prediction((p > 0.5).astype(np.int64), p, are_probabilities=True)


def regression() -> tuple[Truth, Prediction]:
    y = rng.gamma(2.0, size=N)
    return Truth(values=y), Prediction(values=y + 0.4 * rng.normal(size=N))


def ranking(queries: int = 60) -> tuple[Truth, Prediction]:
    groups = np.repeat(np.arange(queries), rng.integers(2, 12, queries))
    gains = rng.integers(0, 4, len(groups)) * (rng.random(len(groups)) < 0.3).astype(float)
    gains[np.searchsorted(groups, np.arange(queries))] = 2.0
    order = rng.permutation(len(groups))
    scores = np.round(gains + 0.5 * rng.normal(size=len(groups)), 0)
    return Truth(values=gains[order], groups=groups[order]), Prediction(scores=scores[order])


SITUATIONS = {
    "binary": binary,
    "multiclass": multiclass,
    "multilabel": multilabel,
    "regression": regression,
    "ranking": ranking,
}
ALL = [
    (task, name.replace("<k>", "2").replace("<quantile>", "0.9"))
    for task in SITUATIONS
    for name in known(task)  # type: ignore[arg-type]
]


def yes(said: Prediction) -> Any:
    assert said.scores is not None
    return said.scores[:, 1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", lambda y, s: skm.accuracy_score(y, s.decisions)),
        ("balanced_accuracy", lambda y, s: skm.balanced_accuracy_score(y, s.decisions)),
        ("precision", lambda y, s: skm.precision_score(y, s.decisions)),
        ("recall", lambda y, s: skm.recall_score(y, s.decisions)),
        ("f1", lambda y, s: skm.f1_score(y, s.decisions)),
        ("auc", lambda y, s: skm.roc_auc_score(y, yes(s))),
        ("average_precision", lambda y, s: skm.average_precision_score(y, yes(s))),
        ("log_loss", lambda y, s: skm.log_loss(y, yes(s))),
    ],
)
def test_of_two_classes_as_scikit_learn_has_it(name: str, expected: Any) -> None:
    truth, said = binary()
    assert metric(name).value(truth, said) == pytest.approx(expected(truth.classes, said), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", lambda y, s: skm.accuracy_score(y, s.decisions)),
        ("balanced_accuracy", lambda y, s: skm.balanced_accuracy_score(y, s.decisions)),
        ("precision_macro", lambda y, s: skm.precision_score(y, s.decisions, average="macro")),
        ("recall_macro", lambda y, s: skm.recall_score(y, s.decisions, average="macro")),
        ("f1_macro", lambda y, s: skm.f1_score(y, s.decisions, average="macro")),
        ("f1_micro", lambda y, s: skm.f1_score(y, s.decisions, average="micro")),
        ("auc", lambda y, s: skm.roc_auc_score(y, s.scores, multi_class="ovr")),
        ("log_loss", lambda y, s: skm.log_loss(y, s.scores)),
        ("top_2", lambda y, s: skm.top_k_accuracy_score(y, s.scores, k=2)),
    ],
)
def test_of_several_classes_as_scikit_learn_has_it(name: str, expected: Any) -> None:
    truth, said = multiclass()
    assert metric(name).value(truth, said) == pytest.approx(expected(truth.classes, said), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", lambda y, s: skm.accuracy_score(y, s.decisions)),
        ("hamming_loss", lambda y, s: skm.hamming_loss(y, s.decisions)),
        ("precision_macro", lambda y, s: skm.precision_score(y, s.decisions, average="macro")),
        ("recall_macro", lambda y, s: skm.recall_score(y, s.decisions, average="macro")),
        ("f1_macro", lambda y, s: skm.f1_score(y, s.decisions, average="macro")),
        ("f1_micro", lambda y, s: skm.f1_score(y, s.decisions, average="micro")),
        ("auc", lambda y, s: skm.roc_auc_score(y, s.scores)),
        ("average_precision", lambda y, s: skm.average_precision_score(y, s.scores)),
        (
            "log_loss",
            lambda y, s: np.mean([skm.log_loss(a, b) for a, b in zip(y.T, s.scores.T, strict=True)]),
        ),
    ],
)
def test_of_several_labels_as_scikit_learn_has_it(name: str, expected: Any) -> None:
    truth, said = multilabel()
    assert metric(name).value(truth, said) == pytest.approx(expected(truth.classes, said), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rmse", skm.root_mean_squared_error),
        ("mae", skm.mean_absolute_error),
        ("mape", skm.mean_absolute_percentage_error),
        ("r2", skm.r2_score),
        ("pinball_0.9", lambda y, p: skm.mean_pinball_loss(y, p, alpha=0.9)),
    ],
)
def test_of_numbers_as_scikit_learn_has_it(name: str, expected: Any) -> None:
    truth, said = regression()
    assert metric(name).value(truth, said) == pytest.approx(expected(truth.values, said.values), abs=1e-12)


@pytest.mark.parametrize("k", [None, 1, 3, 100])
def test_ndcg_is_the_mean_of_scikit_learns_over_the_groups(k: int | None) -> None:
    truth, said = ranking()
    assert truth.values is not None
    assert said.scores is not None
    ours = metric("ndcg" if k is None else f"ndcg_{k}").value(truth, said)
    parts = [truth.groups == group for group in np.unique(truth.groups)]  # type: ignore[arg-type]
    theirs = [skm.ndcg_score([truth.values[p]], [said.scores[p]], k=k) for p in parts]
    assert ours == pytest.approx(np.mean(theirs), abs=1e-12)


def precision_by_hand(relevant: tuple[int, ...], k: int) -> float:
    found = [sum(relevant[: i + 1]) / (i + 1) for i in range(min(k, len(relevant))) if relevant[i]]
    return sum(found) / min(k, sum(relevant))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_equal_scores_count_as_the_mean_over_their_orders(k: int) -> None:
    """Scores 2 | 1 1 1 | 0, one row irrelevant at the top, of the three equal ones one or two relevant."""
    for equal in [(1, 0, 0), (1, 1, 0)]:
        truth = Truth(values=np.array([0, *equal, 1.0]), groups=np.zeros(5, np.int64))
        said = Prediction(scores=np.array([2, 1, 1, 1, 0.0]))
        orders = [(0, *order, 1) for order in permutations(equal)]
        expected = np.mean([precision_by_hand(order, k) for order in orders])
        assert metric(f"map_{k}").value(truth, said) == pytest.approx(expected)
        hits = np.mean([any(order[:k]) for order in orders])
        assert metric(f"hit_rate_{k}").value(truth, said) == pytest.approx(hits)


def test_map_and_hit_rate_by_hand() -> None:
    truth = Truth(values=np.array([1, 0, 1, 0, 1, 0.0]), groups=np.array([7, 7, 7, 3, 3, 3]))
    said = Prediction(scores=np.array([0.9, 0.8, 0.7, 0.9, 0.1, 0.5]))
    assert metric("map").value(truth, said) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3) / 2)
    assert metric("map_2").value(truth, said) == pytest.approx((1 / 2 + 0) / 2)
    assert metric("hit_rate_2").value(truth, said) == 0.5


def test_groups_that_any_order_serves_do_not_count() -> None:
    truth = Truth(values=np.array([1, 0, 0, 0, 3.0]), groups=np.array([1, 1, 2, 2, 3]))
    said = Prediction(scores=np.array([0, 1, 1, 0, 1.0]))
    assert metric("map").value(truth, said) == pytest.approx(0.5)
    assert metric("ndcg").value(truth, said) == pytest.approx(1 / np.log2(3))


def test_calibration_error_is_scikit_learns_curve_weighted_by_its_bins() -> None:
    truth, said = binary()
    share, mean = calibration_curve(truth.classes, yes(said), n_bins=10)
    rows = np.bincount(np.searchsorted(np.linspace(0, 1, 11)[1:-1], yes(said)), minlength=10)
    expected = np.sum(np.abs(share - mean) * rows[rows > 0]) / N
    assert metric("calibration_error").value(truth, said) == pytest.approx(expected)


def test_calibration_error_of_several_classes_is_of_the_surest_one() -> None:
    scores = np.array([[0.85, 0.1, 0.05]] * 4)
    said = Prediction(scores=scores, are_probabilities=True)
    assert metric("calibration_error").value(Truth(np.array([0, 0, 0, 2]), 3), said) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("task", "name", "expected"),
    [
        ("binary", "accuracy", lambda t: max(t.classes.mean(), 1 - t.classes.mean())),
        ("binary", "balanced_accuracy", lambda t: 0.5),
        ("binary", "auc", lambda t: 0.5),
        ("binary", "precision", lambda t: t.classes.mean()),
        ("binary", "average_precision", lambda t: t.classes.mean()),
        ("binary", "f1", lambda t: 2 * t.classes.mean() / (1 + t.classes.mean())),
        ("multiclass", "auc", lambda t: 0.5),
        ("multiclass", "balanced_accuracy", lambda t: 0.25),
        ("multiclass", "top_2", lambda t: np.sort(np.bincount(t.classes))[-2:].sum() / N),
        ("regression", "r2", lambda t: 0.0),
        ("regression", "rmse", lambda t: t.values.std()),
        ("regression", "mae", lambda t: np.abs(t.values - np.median(t.values)).mean()),
    ],
)
def test_the_trivial_value_is_that_of_the_best_answer_without_looking(
    task: str, name: str, expected: Any
) -> None:
    truth, _ = SITUATIONS[task]()
    assert metric(name).trivial(truth) == pytest.approx(expected(truth))


@pytest.mark.parametrize("name", ["f1_macro", "precision_macro"])
def test_guessing_by_the_shares_reaches_one_over_the_classes(name: str) -> None:
    truth, _ = multiclass()
    assert metric(name).trivial(truth) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("name", "step"), [("rmse", 0.05), ("mae", 0.05), ("mape", 0.02), ("pinball_0.9", 0.05)]
)
def test_no_other_constant_loses_less(name: str, step: float) -> None:
    truth, _ = regression()
    best = metric(name).trivial(truth)
    for constant in np.arange(0, 4, step):
        said = Prediction(values=np.full(N, constant))
        assert metric(name).value(truth, said) >= best - 1e-12  # type: ignore[operator]


@pytest.mark.parametrize(("task", "name"), ALL)
def test_models_of_use_beat_the_trivial_answer_by_more_than_chance(task: str, name: str) -> None:
    truth, said = SITUATIONS[task]()
    found = metric(name)
    blind = found.blind(truth)
    if blind is None:
        assert name in ("recall", "calibration_error", "recall_macro")
        return
    if name in ("mape", "hamming_loss"):  # these two are better off knowing nothing here
        return
    compared = found.compare(truth, blind, said, 0.95)
    assert compared.reference == pytest.approx(found.trivial(truth))
    assert compared.lower > 0 if found.higher_is_better else compared.upper < 0


@pytest.mark.parametrize(("task", "name"), ALL)
def test_the_interval_holds_the_difference_and_has_a_width_where_nothing_differs(
    task: str, name: str
) -> None:
    truth, said = SITUATIONS[task]()
    same = metric(name).compare(truth, said, said, 0.95)
    assert same.lower < -1e-4 < 1e-4 < same.upper
    assert same.reference == same.candidate


@pytest.mark.parametrize(("task", "name"), ALL)
def test_more_confidence_asks_for_more(task: str, name: str) -> None:
    truth, said = SITUATIONS[task]()
    _, other = SITUATIONS[task]()
    rows = np.arange(min(len(truth), 250))
    parts = truth.take(rows), said.take(rows), other.take(rows)
    less, more = (metric(name).compare(*parts, confidence) for confidence in (0.9, 0.99))
    assert more.lower < less.lower < less.upper < more.upper


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("binary", "precision"),
        ("binary", "f1"),
        ("binary", "average_precision"),
        ("multiclass", "precision_macro"),
        ("multiclass", "f1_macro"),
        ("multilabel", "f1_macro"),
        ("multilabel", "f1_micro"),
        ("multilabel", "recall_macro"),
        ("multilabel", "average_precision"),
    ],
)
def test_what_a_row_contributes_is_what_leaving_it_out_takes_away(task: str, name: str) -> None:
    """The influence function against the jackknife."""
    truth, said = SITUATIONS[task]()
    found: Any = metric(name)
    part = found.part(truth, said)
    assert part.value == pytest.approx(found.value(truth, said))
    without = (np.delete(np.arange(N), row) for row in range(N))
    left_out = np.array([found.part(truth.take(keep), said.take(keep)).value for keep in without])
    apart = (N - 1) * (part.value - left_out) - part.influence
    assert np.linalg.norm(apart) < 0.08 * np.linalg.norm(part.influence)
    assert part.influence.mean() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("recall", "none of 5 rows is positive"),
        ("f1", "none of 5 rows is positive"),
        ("precision", "none of 5 rows is positive"),
        ("auc", "needs 1 rows of both kinds, and 0 of 5 are positive"),
        ("average_precision", "needs 1 rows of both kinds"),
    ],
)
def test_rows_of_one_class_say_nothing(name: str, why: str) -> None:
    said = Prediction(np.zeros(5, np.int64), np.full((5, 2), 0.5), are_probabilities=True)
    with pytest.raises(TooFewRows, match=why):
        metric(name).value(Truth(np.zeros(5, np.int64), 2), said)


def test_balanced_accuracy_compares_nothing_on_one_class() -> None:
    said = Prediction(np.zeros(50, np.int64))
    with pytest.raises(TooFewRows, match="all 50 rows are of one class"):
        metric("balanced_accuracy").compare(Truth(np.zeros(50, np.int64), 2), said, said, 0.95)


@pytest.mark.parametrize("name", ["rmse", "mae", "r2"])
def test_targets_that_are_all_the_same_say_nothing(name: str) -> None:
    said = Prediction(values=np.ones(50))
    with pytest.raises(TooFewRows, match=r"all rows (ask for|have) the same"):
        metric(name).compare(Truth(values=np.ones(50)), said, said, 0.95)


@pytest.mark.parametrize("name", ["rmse", "mae", "r2", "pinball_0.5", "log_loss"])
def test_a_model_without_any_error_may_be_rounded(name: str) -> None:
    y = rng.normal(size=N)
    classes = (y > 0).astype(np.int64)
    truth = Truth(classes, 2, values=y)
    exact = Prediction(values=y, scores=np.eye(2)[classes], are_probabilities=True)
    rounded = Prediction(
        values=y.astype(np.float32).astype(float), scores=np.eye(2)[classes] * (1 - 2e-6) + 1e-6,
        are_probabilities=True,
    )  # fmt: skip
    compared = metric(name).compare(truth, exact, rounded, 0.95)
    assert -0.01 < compared.lower < compared.upper < 0.01


def test_a_target_of_zero_is_no_divisor() -> None:
    with pytest.raises(Permanent, match="1 of 2 rows have the target 0"):
        metric("mape").value(Truth(values=np.array([0.0, 1])), Prediction(values=np.ones(2)))


def test_negative_gains_are_refused() -> None:
    truth = Truth(values=np.array([-1.0, 1]), groups=np.zeros(2, np.int64))
    with pytest.raises(Permanent, match="needs values of at least 0, and 1 of 2 rows are below"):
        metric("ndcg").value(truth, Prediction(scores=np.ones(2)))


def test_groups_of_one_row_say_nothing() -> None:
    truth = Truth(values=np.ones(3), groups=np.arange(3))
    with pytest.raises(TooFewRows, match="none of 3 groups has two rows"):
        metric("ndcg").value(truth, Prediction(scores=np.ones(3)))


def test_constant_scores_rank_at_random() -> None:
    truth, _ = binary()
    constant = Prediction(scores=np.full((N, 2), 0.5), are_probabilities=True)
    assert metric("auc").value(truth, constant) == 0.5
    assert metric("average_precision").value(truth, constant) == pytest.approx(truth.classes.mean())  # type: ignore[union-attr]


def test_logits_are_no_probabilities() -> None:
    truth, _ = binary()
    with pytest.raises(Permanent, match="log_loss needs probabilities, and the scores are none"):
        metric("log_loss").value(truth, Prediction(scores=np.zeros((N, 2))))


def test_labels_alone_have_no_area() -> None:
    truth, said = binary()
    with pytest.raises(Permanent, match="auc needs scores, and the model answers only labels"):
        metric("auc").value(truth, Prediction(said.decisions))


def test_among_as_many_as_there_are_every_class_is() -> None:
    truth, said = multiclass(3)
    with pytest.raises(Permanent, match="top_3 is always right: there are 3 classes"):
        metric("top_3").value(truth, said)


def test_probabilities_of_float32_are_taken() -> None:
    truth, said = multiclass()
    assert said.scores is not None
    single = said.scores.astype(np.float32).astype(np.float64)
    value = metric("log_loss").value(truth, Prediction(scores=single, are_probabilities=True))
    assert value == pytest.approx(metric("log_loss").value(truth, said), rel=1e-5)


def test_a_class_that_does_not_occur_is_not_averaged() -> None:
    truth = Truth(np.array([0, 0, 1, 1]), 3)
    said = Prediction(np.array([0, 2, 1, 1]))
    assert metric("f1_macro").value(truth, said) == pytest.approx((2 / 3 + 1) / 2)
    assert metric("balanced_accuracy").value(truth, said) == pytest.approx(0.75)


def test_a_model_that_decides_nothing_positive_has_precision_zero() -> None:
    truth, said = binary()
    never = Prediction(np.zeros(N, np.int64))
    assert metric("precision").value(truth, never) == 0
    assert metric("precision").compare(truth, said, never, 0.95).upper < -0.3
