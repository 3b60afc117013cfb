"""What spec, model and file say together: read rightly where it is certain, else asked for in one message.

The right numbers are scikit-learn's own, of the words of the file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from model_store.errors import Permanent
from model_store.gates.questions import Seen, Unsaid
from model_store.gates.reading import Reading, WrongOutputs
from model_store.gates.task import Unfit, resolve
from model_store.metrics import metric
from model_store.release_spec import ReleaseSpec

Array = np.ndarray[Any, Any]
ROWS = 400
Says = dict[str, Any] | None


def spec(**said: Any) -> ReleaseSpec:
    data = {"evaluation": "e.csv", "calibration": "c.csv", "label": "y", **said.pop("data", {})}
    steps = [{"weight": 100, "hold_seconds": 1}]
    whole = {"model": "m", "source": {"flavor": "onnx"}, "data": data, "rollout": {"steps": steps}}
    return ReleaseSpec.model_validate({**whole, **said})


def certain(count: int = 2, seed: int = 0) -> tuple[Array, Array]:
    """Class numbers, and probabilities [N, count] that mostly agree with them."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, count, ROWS)
    logits = rng.normal(size=(ROWS, count))
    logits[np.arange(ROWS), classes] += 1.5
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return classes, shares.astype(np.float32)


def words(values: Array, *names: str) -> Array:
    return np.array(names, dtype=object)[values]


def read(
    answers: dict[str, Array], labels: Array, says: dict[str, Any] | None = None, **said: Any
) -> Reading:
    return resolve(Seen(spec(**said), answers, labels, says or {}))


def value(name: str, reading: Reading, answers: dict[str, Array], labels: Array) -> float:
    return metric(name).value(reading.truth(labels, None), reading.predict(answers, len(labels)))


def asked(answers: dict[str, Array], labels: Array, says: Says = None, **said: Any) -> str:
    with pytest.raises(Unsaid) as question:
        read(answers, labels, says, **said)
    return str(question.value)


# certain without a word


def test_numbers_and_columns_from_zero_are_read_as_they_are() -> None:
    truth, shares = certain()
    answers = {"probabilities": shares}
    reading = read(answers, truth)
    assert (reading.task, reading.classes) == ("binary", (0, 1))
    assert value("accuracy", reading, answers, truth) == accuracy_score(truth, shares.argmax(axis=1))
    assert value("auc", reading, answers, truth) == pytest.approx(roc_auc_score(truth, shares[:, 1]))


def test_several_text_classes_are_each_a_class_and_the_positive_one_is_no_other() -> None:
    truth, shares = certain(3)
    labels = words(truth, "billing", "cancel", "praise")
    answers = {"label": words(shares.argmax(axis=1), "billing", "cancel", "praise"), "probabilities": shares}
    reading = read(answers, labels, data={"positive": "billing"})
    assert reading.task == "multiclass"
    assert value("accuracy", reading, answers, labels) == accuracy_score(labels, answers["label"])
    expected = roc_auc_score(labels, shares / shares.sum(axis=1, keepdims=True), multi_class="ovr")
    assert value("auc", reading, answers, labels) == pytest.approx(expected, abs=1e-6)


def test_the_label_output_tells_which_column_is_whose_in_whatever_order_they_stand() -> None:
    truth, shares = certain(3)
    labels = words(truth, "a", "b", "c")
    turned = shares[:, [2, 0, 1]]
    answers = {"label": words(shares.argmax(axis=1), "a", "b", "c"), "probabilities": turned}
    reading = read(answers, labels)
    by_word = dict(zip(reading.classes, reading.columns, strict=True))
    assert by_word == {"a": 1, "b": 2, "c": 0}


def test_the_estimators_classes_say_which_column_is_the_positive_one() -> None:
    truth, shares = certain()
    labels = words(truth, "bad", "good")
    answers = {"label": words(shares.argmax(axis=1), "bad", "good"), "probabilities": shares}
    says = {"kind": "classifier", "classes": ["bad", "good"]}
    reading = read(answers, labels, says, data={"positive": "bad"})
    assert reading.classes == ("good", "bad")
    assert value("auc", reading, answers, labels) == pytest.approx(
        roc_auc_score(labels == "bad", shares[:, 0])
    )


@pytest.mark.parametrize(
    ("said", "held"),
    [
        (np.array(["0", "1"], object), np.array([0, 1])),
        (np.array([False, True]), np.array([0, 1])),
        (np.array([0, 1]), np.array([False, True])),
        (np.array([0, 1]), np.array(["0", "1"], object)),
        (np.array([0.0, 1.0], np.float32), np.array([0, 1])),
    ],
)
def test_words_that_are_spelt_alike_are_the_same_word(said: Array, held: Array) -> None:
    truth, shares = certain()
    answers = {"label": said[shares.argmax(axis=1)], "probabilities": shares}
    if said.dtype.kind == "f":
        answers.pop("label")
    reading = read(answers, held[truth])
    assert value("accuracy", reading, answers, held[truth]) == accuracy_score(truth, shares.argmax(axis=1))


def test_a_threshold_of_the_models_own_is_its_decision_and_its_scores_are_judged_too() -> None:
    truth, shares = certain()
    decided = (shares[:, 1] > 0.8).astype(np.int64)
    answers = {"label": words(decided, "bad", "good"), "probabilities": shares}
    labels = words(truth, "bad", "good")
    reading = read(answers, labels, data={"positive": "good"})
    assert value("accuracy", reading, answers, labels) == accuracy_score(truth, decided)
    assert value("auc", reading, answers, labels) == pytest.approx(roc_auc_score(truth, shares[:, 1]))


def test_two_logits_are_ranked_by_their_difference_and_never_by_one_of_them() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, ROWS)
    common = rng.normal(size=ROWS) * 10
    logits = np.stack([common, common + 2 * truth - 1 + rng.normal(size=ROWS)], axis=1).astype(np.float32)
    reading = read({"logits": logits}, truth)
    right = roc_auc_score(truth, logits[:, 1].astype(np.float64) - logits[:, 0])
    assert value("auc", reading, {"logits": logits}, truth) == pytest.approx(right)
    assert right > roc_auc_score(truth, logits[:, 1]) + 0.2


def test_several_logits_rank_as_their_softmax_does_also_where_that_rounds_to_one() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, ROWS)
    logits = rng.normal(size=(ROWS, 3)) * 5 + rng.normal(size=(ROWS, 1)) * 50
    logits[np.arange(ROWS), truth] += 4
    answers = {"logits": logits.astype(np.float32)}
    wide = answers["logits"].astype(np.longdouble)
    shares = np.exp(wide - wide.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    right = np.mean([roc_auc_score(truth == at, shares[:, at].astype(np.float64)) for at in range(3)])
    assert value("auc", read(answers, truth), answers, truth) == pytest.approx(float(right), abs=2e-4)
    far = {"logits": np.array([[1000.0, 0.0, 1.0], [0.0, 500.0, 501.0]], np.float32)}
    scores = read(answers, truth).predict(far, 2).scores
    assert scores is not None
    assert scores[0].tolist() == pytest.approx([999 - np.log1p(np.exp(-1)), -1000.0, -999.0], rel=1e-6)


def test_a_decision_function_ranks_each_class_against_the_rest_as_it_is() -> None:
    truth, shares = certain(3)
    margins = {"label": shares.argmax(axis=1), "margins": (shares * [1, 20, 0.1] - 0.3).astype(np.float32)}
    says = {"kind": "classifier", "classes": [0, 1, 2], "outputs": {"margins": "decision_function"}}
    columns = margins["margins"].astype(np.float64)
    right = np.mean([roc_auc_score(truth == at, columns[:, at]) for at in range(3)])
    assert value("auc", read(margins, truth, says), margins, truth) == pytest.approx(float(right))
    assert value("auc", read(margins, truth), margins, truth) != pytest.approx(float(right), abs=1e-3)


def test_a_single_column_named_as_probability_is_decided_at_a_half_for_the_second_class() -> None:
    truth, shares = certain()
    answers = {"probability": shares[:, 1:]}
    reading = read(answers, truth, data={"positive": 0})
    assert reading.classes == (1, 0)
    assert value("accuracy", reading, answers, truth) == accuracy_score(truth, shares[:, 1] > 0.5)
    assert value("auc", reading, answers, truth) == pytest.approx(roc_auc_score(truth == 0, -shares[:, 1]))


def test_a_regressor_is_never_judged_as_classes_whatever_whole_numbers_the_file_holds() -> None:
    rng = np.random.default_rng(3)
    days = rng.integers(0, 30, ROWS)
    answers = {"variable": (days + rng.normal(size=ROWS)).astype(np.float32).reshape(-1, 1)}
    reading = read(answers, days, {"kind": "regressor"})
    assert reading.task == "regression"
    expected = np.sqrt(np.mean((answers["variable"].ravel().astype(np.float64) - days) ** 2))
    assert value("rmse", reading, answers, days) == pytest.approx(expected)
    with pytest.raises(Unfit, match=r"a regressor.*gates.accuracy(?s:.*)mae: \{max_increase: 0.05\}"):
        read(answers, days, {"kind": "regressor"}, gates={"accuracy": {"max_drop": 0.01}})


def test_several_numbers_a_row_are_no_regression_and_are_refused_with_the_reason() -> None:
    """A multi-output regressor, of which the file names one label."""
    answers, truth = {"variable": np.zeros((9, 2), np.float32)}, np.linspace(0, 2, 9)
    reading = read(answers, truth, outputs={"value": "variable"})
    with pytest.raises(WrongOutputs, match=r"`variable` is float32\[9, 2\], and a row is judged by one"):
        value("mae", reading, answers, truth)


@pytest.mark.parametrize(("known", "more"), [((0, 1, 2), (0, 1, 2, 3)), ((-1, 0, 1, 2), (0, 1, 2))])
def test_a_champion_of_more_or_fewer_classes_is_read_in_those_of_the_candidate(
    known: tuple[int, ...], more: tuple[int, ...]
) -> None:
    """No row is of the class that only one of them knows; it may stand first among the columns."""
    rng = np.random.default_rng(8)
    truth = rng.integers(0, 3, ROWS)

    def answered(classes: tuple[int, ...]) -> dict[str, Array]:
        sure = rng.normal(size=(ROWS, len(classes))) + 3 * (truth[:, None] == np.array(classes))
        shares = np.exp(sure) / np.exp(sure).sum(axis=1, keepdims=True)
        return {"label": np.array(classes)[shares.argmax(axis=1)], "probabilities": shares.astype(np.float32)}

    champion, candidate = answered(known), answered(more)
    own, other = (
        read(answers, truth, {"classes": list(classes)}, task="multiclass")
        for answers, classes in ((candidate, more), (champion, known))
    )
    spread = other.spread_over(own)
    kept = [known.index(word) for word in range(3)]
    by_class = [roc_auc_score(truth == word, champion["probabilities"][:, kept[word]]) for word in range(3)]
    assert value("auc", spread, champion, truth) == pytest.approx(np.mean(by_class))
    assert value("accuracy", spread, champion, truth) == accuracy_score(truth, champion["label"])


def test_a_label_of_fractions_is_a_number() -> None:
    answers = {"y": np.linspace(0, 1, 9, dtype=np.float32)}
    assert read(answers, np.linspace(0, 2, 9)).task == "regression"


def test_groups_make_a_ranking_and_a_list_of_labels_a_multilabel_task() -> None:
    scores = {"score": np.arange(6, dtype=np.float32).reshape(-1, 1)}
    ranking = read(scores, np.array([0, 1, 2, 0, 1, 2]), data={"group": "query"})
    assert (ranking.task, ranking.scores) == ("ranking", "score")
    labels = np.array([[0, 1], [1, 1], [1, 0]])
    answers = {"probabilities": np.array([[0.1, 0.9], [0.8, 0.7], [0.9, 0.6]], np.float32)}
    several = read(answers, labels, data={"label": ["a", "b"]})
    said = several.predict(answers, 3)
    assert several.task == "multilabel"
    assert said.decisions is not None
    assert said.decisions.tolist() == [[0, 1], [1, 1], [1, 1]]


def test_classes_that_only_one_side_knows_are_told_and_crash_nothing() -> None:
    truth, shares = certain(3)
    answers = {"label": shares.argmax(axis=1), "probabilities": shares}
    absent = read(answers, np.minimum(truth, 1))
    assert absent.told == ("the model knows {2}, of which the file holds no row: not judged",)
    held = np.where(np.arange(ROWS) % 50 == 0, 7, truth)
    unsayable = read(answers, held, {"classes": [0, 1, 2]})
    assert unsayable.told == ("the file holds {7}, which the model never answers: always wrong there",)
    said = unsayable.predict(answers, ROWS)
    assert said.scores is not None
    assert said.scores.shape == (ROWS, 4)
    assert value("accuracy", unsayable, answers, held) == accuracy_score(held, answers["label"])


# asked for


def test_numbers_against_words_are_asked_for_with_both_sides_and_the_line_to_write() -> None:
    truth, shares = certain()
    answers = {"label": shares.argmax(axis=1), "probabilities": shares}
    labels = words(truth, "bad", "good")
    said = asked(answers, labels, {"classes": [0, 1]}, data={"positive": "bad"})
    assert "the model answers {0, 1}, the file holds {bad, good}" in said
    assert "classes: [bad, good]   # if number 0 is bad" in said
    reading = read(answers, labels, {"classes": [0, 1]}, data={"positive": "bad"}, classes=["bad", "good"])
    assert value("accuracy", reading, answers, labels) == accuracy_score(truth, answers["label"])
    turned = read(answers, labels, {"classes": [0, 1]}, data={"positive": "bad"}, classes=["good", "bad"])
    assert value("accuracy", turned, answers, labels) == accuracy_score(truth, 1 - answers["label"])


def test_other_words_for_the_same_are_asked_for_one_by_one() -> None:
    truth, shares = certain()
    answers = {"label": words(shares.argmax(axis=1), "no", "yes"), "probabilities": shares}
    said = asked(answers, truth, {"classes": ["no", "yes"]})
    assert "the model answers {no, yes}, the file holds {0, 1}" in said
    assert "classes: {'no': 0, 'yes': 1}" in said
    for written in ({"no": 0, "yes": 1}, [0, 1]):
        reading = read(answers, truth, {"classes": ["no", "yes"]}, classes=written)
        assert value("accuracy", reading, answers, truth) == accuracy_score(truth, shares.argmax(axis=1))


def test_column_numbers_are_not_class_numbers_where_the_file_counts_from_one() -> None:
    truth, shares = certain(3)
    answers = {"probabilities": shares}
    said = asked(answers, truth + 1)
    assert "the model answers {0, 1, 2}, the file holds {1, 2, 3}" in said
    assert "classes: [1, 2, 3]" in said
    reading = read(answers, truth + 1, classes=[1, 2, 3])
    assert value("accuracy", reading, answers, truth + 1) == accuracy_score(truth, shares.argmax(axis=1))


def test_a_list_against_what_the_model_itself_says_is_refused() -> None:
    truth, shares = certain()
    answers = {"label": words(shares.argmax(axis=1), "bad", "good"), "probabilities": shares}
    labels = words(truth, "bad", "good")
    said = asked(answers, labels, {"classes": ["bad", "good"]}, classes=["good", "bad"])
    assert "the model counts its classes {bad, good}, and classes says {good, bad}" in said


def test_the_positive_one_of_two_words_is_asked_for() -> None:
    truth, shares = certain()
    answers = {"label": words(shares.argmax(axis=1), "bad", "good"), "probabilities": shares}
    said = asked(answers, words(truth, "bad", "good"))
    assert "data.positive is 1, and the classes are {bad, good}" in said
    assert "data: {positive: bad, ...}" in said


def test_a_single_score_that_nobody_calls_a_probability_has_no_threshold() -> None:
    truth, shares = certain()
    answers = {"y": shares[:, 1]}
    said = asked(answers, truth)
    assert "outputs: {scores: y, threshold: 0.5}" in said
    reading = read(answers, truth, outputs={"scores": "y", "threshold": 0.7})
    assert value("accuracy", reading, answers, truth) == accuracy_score(truth, shares[:, 1] > 0.7)


def test_which_of_several_outputs_are_the_scores_is_asked_for_unless_the_label_says_it() -> None:
    truth, shares = certain(3)
    noise = np.random.default_rng(9).normal(size=shares.shape).astype(np.float32)
    answers = {"embedding": noise, "head": shares}
    said = asked(answers, truth)
    assert "outputs: {scores: embedding}" in said
    assert "outputs: {scores: head}" in said
    assert read(answers, truth, outputs={"scores": "head"}).scores == "head"
    assert read({**answers, "label": shares.argmax(axis=1)}, truth).scores == "head"


def test_one_number_a_row_against_many_numbers_is_asked_what_it_is() -> None:
    answers = {"y": np.random.default_rng(0).normal(size=(90, 1)).astype(np.float32)}
    said = asked(answers, np.arange(90) % 30)
    assert "nothing says whether the label is a number or a class" in said
    assert "task: regression" in said
    assert read(answers, np.arange(90) % 30, task="regression").value == "y"


def test_what_is_open_in_several_places_is_asked_for_at_once() -> None:
    truth, shares = certain(3)
    turned = {"label": words((shares[:, 0] > 0.9).astype(int), "x", "y"), "scores": shares[:, :2] * 3}
    said = asked(turned, words(truth % 2, "x", "y"))
    assert "data.positive" in said
    assert "which column of output `scores`" in said


def test_an_output_that_is_not_there_is_named_with_those_that_are() -> None:
    truth, shares = certain()
    assert "names `prob`, and the model answers p" in asked({"p": shares}, truth, outputs={"scores": "prob"})


# what every version must keep


def test_one_answer_for_all_rows_is_refused() -> None:
    truth, shares = certain()
    reading = read({"probabilities": shares}, truth)
    with pytest.raises(WrongOutputs, match=r"answers 400 rows with \[1, 2\]: not one answer for each row"):
        reading.predict({"probabilities": shares[:1]}, ROWS)


def test_rows_of_nan_are_never_decided_rightly() -> None:
    truth, shares = certain()
    reading = read({"probabilities": shares}, truth)
    broken = shares.copy()
    broken[7] = np.nan
    said = reading.predict({"probabilities": broken}, ROWS)
    assert said.decisions is not None
    assert said.decisions[7] == -1


def test_a_word_that_is_no_class_is_never_right() -> None:
    truth, shares = certain()
    answers = {"label": shares.argmax(axis=1), "probabilities": shares}
    reading = read(answers, truth)
    said = reading.predict({**answers, "label": np.full(ROWS, 5)}, ROWS)
    assert said.decisions is not None
    assert set(said.decisions.tolist()) == {-1}


def test_a_multilabel_model_wants_a_list_of_columns() -> None:
    answers = {"label": np.zeros((5, 3), np.int64)}
    with pytest.raises(Permanent, match=r"several labels for each row, and data.label is one column"):
        read(answers, np.zeros(5, np.int64), {"kind": "classifier", "multilabel": True})
