"""Every limit and every guard seen to block, and an equal candidate to pass them all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss, mean_absolute_error, recall_score

from model_store.errors import Permanent
from model_store.gates.exam import Answered, Exam, Own
from model_store.gates.judge import judge
from model_store.gates.questions import Seen
from model_store.gates.reading import Reading
from model_store.gates.task import Unfit, resolve
from model_store.metrics.custom import Custom
from model_store.release_spec import Gates, Margin, ReleaseSpec
from model_store.types import Check

Array = np.ndarray[Any, Any]
Outputs = dict[str, Array]


def gates(**said: Any) -> Gates:
    return Gates.model_validate(said)


def exam(answers: Outputs, labels: Array, limits: Gates, slices: Outputs | None = None, **said: Any) -> Exam:
    data = {"evaluation": "e.csv", "calibration": "c.csv", "label": "y", "slices": list(slices or {})}
    rollout = {"steps": [{"weight": 100, "hold_seconds": 1}]}
    whole = {"model": "m", "source": {"flavor": "onnx"}, "data": data, "rollout": rollout, **said}
    spec = ReleaseSpec.model_validate({**whole, "gates": limits.model_dump(mode="json")})
    reading = resolve(Seen(spec, answers, labels))
    return Exam(reading, reading.truth(labels, None), slices or {}, limits)


def answered(name: str, outputs: Outputs, reading: Reading) -> Answered:
    return Answered.read(name, outputs, reading, len(next(iter(outputs.values()))))


def judged(
    original: Outputs,
    candidate: Outputs,
    labels: Array,
    limits: Gates,
    *,
    slices: Outputs | None = None,
    champion: Outputs | None = None,
    **said: Any,
) -> tuple[Check, ...]:
    on = exam(original, labels, limits, slices, **said)
    first = answered("v1", champion, on.reading) if champion else None
    return judge(
        answered("original", original, on.reading), answered("new", candidate, on.reading), on, first
    )


def failed(checks: tuple[Check, ...]) -> list[str]:
    return [check.name for check in checks if not check.passed]


def named(checks: tuple[Check, ...], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def outputs(scores: Array) -> Outputs:
    shares = np.stack([1 - scores, scores], axis=1).astype(np.float32)
    return {"label": (scores > 0.5).astype(np.int64), "probabilities": shares}


def world(rows: int = 2000, *, flip: float = 0.0) -> tuple[Outputs, Outputs, Array, Outputs]:
    """An original that is right on about 80 %, and a candidate that turns some of its answers round."""
    rng = np.random.default_rng(0)
    labels = (rng.random(rows) < 0.3).astype(np.int64)
    scores = np.clip(0.25 + 0.5 * labels + rng.normal(size=rows) * 0.28, 0.01, 0.99)
    flipped = np.where(rng.random(rows) < flip, 1 - scores, scores)
    homes = np.array(["own", "rent", "other"], object)[rng.choice(3, rows, p=[0.6, 0.38, 0.02])]
    return outputs(scores), outputs(flipped), labels, {"Home": homes}


ONE_POINT = {"max_drop": 0.01}
BOTH = gates(accuracy=ONE_POINT, auc=ONE_POINT)


def test_an_equal_candidate_passes_every_check() -> None:
    original, candidate, labels, _ = world()
    checks = judged(original, candidate, labels, BOTH)
    assert failed(checks) == []
    assert [(check.name, check.direction) for check in checks] == [
        ("finite answers", "at_most"),
        ("accuracy non-inferiority", "at_least"),
        ("auc non-inferiority", "at_least"),
        ("balanced_accuracy guard", "at_least"),
    ]


def test_a_candidate_that_lost_accuracy_fails_and_says_the_numbers() -> None:
    original, candidate, labels, _ = world(flip=0.05)
    check = named(judged(original, candidate, labels, BOTH), "accuracy non-inferiority")
    assert not check.passed
    assert check.observed < check.limit == -0.01
    assert "with 95% confidence at least -0.0" in check.detail
    assert (check.value, check.metric) == (float(np.mean(candidate["label"] == labels)), "accuracy")


def test_a_drop_within_the_margin_still_fails_when_the_rows_cannot_prove_it() -> None:
    original, candidate, labels, _ = world(60)
    assert "accuracy non-inferiority" in failed(judged(original, candidate, labels, BOTH))
    wider = gates(accuracy={"max_drop": 0.05}, auc=None)
    assert failed(judged(original, candidate, labels, wider)) == []


def test_scores_that_lost_their_order_fail_on_auc_alone() -> None:
    original, _, labels, _ = world()
    scores = original["probabilities"][:, 1]
    # The decision stays; how sure it is becomes noise.
    noise = np.random.default_rng(0).random(len(scores)) * 0.49
    shuffled = outputs(np.where(scores > 0.5, 0.5001 + noise, noise))
    assert failed(judged(original, shuffled, labels, BOTH)) == ["auc non-inferiority"]


@pytest.mark.parametrize("gate", ["accuracy", "auc", "recall", "f1"])
def test_an_absolute_minimum_blocks_also_a_faithful_copy_of_a_bad_model(gate: str) -> None:
    original, candidate, labels, _ = world()
    limits = gates(**{"accuracy": ONE_POINT, "auc": None, gate: {"max_drop": 0.1, "min": 0.99}})
    assert failed(judged(original, candidate, labels, limits)) == [f"{gate} minimum"]


def test_an_error_is_limited_from_above_and_by_its_maximum() -> None:
    original, _, labels, _ = world()
    shares = original["probabilities"].astype(np.float64)
    sharper = outputs(1 / (1 + (shares[:, 0] / shares[:, 1]) ** 3))
    limits = gates(accuracy=ONE_POINT, auc=None, log_loss={"max_increase": 0.05, "max": 0.45})
    checks = judged(original, sharper, labels, limits)
    assert failed(checks) == ["log_loss non-inferiority", "log_loss maximum"]
    check = named(checks, "log_loss non-inferiority")
    served = sharper["probabilities"].astype(np.float64)
    expected = log_loss(labels, served / served.sum(axis=1, keepdims=True))
    assert check.value == pytest.approx(expected, rel=1e-6)
    assert (check.direction, check.observed > check.limit == 0.05) == ("at_most", True)


def test_a_regression_is_judged_by_its_errors_and_a_worse_one_is_blocked() -> None:
    rng = np.random.default_rng(4)
    days = rng.integers(0, 30, 1500)
    said = {"variable": (days + rng.normal(size=1500)).astype(np.float32)}
    worse = {"variable": (days + 1.2 * rng.normal(size=1500)).astype(np.float32)}
    limits = gates(rmse={"max_increase": 0.05}, champion={"max_increase": 0.05})
    checks = judged(said, worse, days, limits, champion=said, task="regression")
    check = named(checks, "mae non-inferiority")
    assert check.reference == pytest.approx(mean_absolute_error(days, said["variable"].astype(np.float64)))
    assert failed(checks) == [
        "mae non-inferiority",
        "rmse non-inferiority",
        "mae against champion v1 non-inferiority",
        "rmse against champion v1 non-inferiority",
    ]
    assert failed(judged(said, said, days, limits, champion=said, task="regression")) == []


def test_nan_and_infinity_fail_and_count_as_wrong_answers() -> None:
    original, candidate, labels, _ = world()
    for bad in (np.nan, np.inf, -np.inf):
        broken = {name: values.copy() for name, values in candidate.items()}
        broken["probabilities"][7, 1] = bad
        checks = judged(original, broken, labels, BOTH)
        assert failed(checks) == ["finite answers", "auc non-inferiority"]
        assert "1 of 2000 rows" in checks[0].detail
        assert "row 7" in checks[0].detail


def test_a_metric_of_the_users_own_is_judged_like_any_other(tmp_path: Path) -> None:
    """What a loan brings: a tenth of it if it is good, all of it lost if it is bad."""
    source = tmp_path / "money.py"
    source.write_text(
        "def earned(truth, said):\n    return (said.decisions == 0) * (0.1 - 1.1 * truth.classes)\n"
    )
    original, worse, labels, _ = world(flip=0.1)
    on = exam(original, labels, gates(accuracy={"max_drop": 0.4}, auc=None, champion={"max_drop": 0.4}))
    own = Own("earned", Custom(f"{source}:earned", trusted=True), Margin(max_drop=0.02))
    before, after = answered("v1", original, on.reading), answered("new", worse, on.reading)
    checks = judge(before, after, replace(on, custom=(own,)), before)
    check = named(checks, "earned non-inferiority")
    assert check.value == pytest.approx(np.mean((worse["label"] == 0) * (0.1 - 1.1 * labels)))
    lost = ["earned non-inferiority", "earned against champion v1 non-inferiority"]
    assert [name for name in failed(checks) if "guard" not in name] == lost


def test_a_metric_of_the_users_own_guards_against_what_is_worse_than_a_champion_nobody_named(
    tmp_path: Path,
) -> None:
    source = tmp_path / "found.py"
    source.write_text("def found(truth, said):\n    return 1.0 * (said.decisions == truth.classes)\n")
    original, worse, labels, _ = world(flip=0.1)
    unnamed = gates(accuracy={"max_drop": 0.4}, auc=None)
    own = Own("right", Custom(f"{source}:found", trusted=True), Margin(max_drop=0.02))
    on = replace(exam(worse, labels, unnamed), custom=(own,))
    before, after = answered("v1", original, on.reading), answered("new", worse, on.reading)
    assert "right against champion v1 guard" in failed(judge(after, after, on, before))
    assert failed(judge(after, after, on, after)) == []


# fraud: 2 % positives


def fraud(found: float) -> tuple[Outputs, Array]:
    """A model that finds this share of 100 frauds among 5,000 rows, and calls nothing else one."""
    labels = (np.arange(5000) < 100).astype(np.int64)
    is_found = np.arange(5000) < 100 * found
    return outputs(np.where(is_found, 0.9, np.where(labels == 1, 0.4, 0.1))), labels


def test_a_candidate_that_finds_no_fraud_any_more_is_blocked_though_accuracy_barely_moved() -> None:
    champion, labels = fraud(0.7)
    nothing, _ = fraud(0.0)
    limits = gates(accuracy={"max_drop": 0.05}, auc={"max_drop": 0.05}, champion={"max_drop": 0.02})
    checks = judged(nothing, nothing, labels, limits, champion=champion)
    assert failed(checks) == ["balanced_accuracy against champion v1 guard"]
    guard = named(checks, "balanced_accuracy against champion v1 guard")
    assert guard.value == balanced_accuracy_score(labels, nothing["label"]) == 0.5
    assert guard.reference == pytest.approx(balanced_accuracy_score(labels, champion["label"]))
    assert failed(judged(champion, nothing, labels, limits)) == ["balanced_accuracy guard"]


def test_what_is_evidently_worse_than_the_champion_is_blocked_though_the_spec_names_no_champion() -> None:
    """Faithfully exported, a model trained on noise loses nothing against its own original."""
    champion, labels = fraud(0.7)
    nothing, _ = fraud(0.0)
    checks = judged(nothing, nothing, labels, gates(accuracy=ONE_POINT), champion=champion)
    lost = ["accuracy against champion v1 guard", "balanced_accuracy against champion v1 guard"]
    assert failed(checks) == lost
    told = ["`gates.champion: null` in the spec releases it" in named(checks, name).detail for name in lost]
    assert told == [True, False]
    assert failed(judged(champion, champion, labels, gates(accuracy=ONE_POINT), champion=champion)) == []
    assert gates(champion=None).looks_at_champion is False


def test_an_error_evidently_larger_than_the_champions_is_blocked_and_one_by_chance_is_not() -> None:
    rng = np.random.default_rng(4)
    days = rng.integers(0, 30, 1500)
    champion, alike, worse = (
        {"variable": (days + spread * rng.normal(size=1500)).astype(np.float32)} for spread in (1, 1, 1.5)
    )
    checks = judged(worse, worse, days, gates(), champion=champion, task="regression")
    assert failed(checks) == ["mae against champion v1 guard"]
    guard = named(checks, "mae against champion v1 guard")
    assert (guard.direction, guard.observed > guard.limit == 0.05) == ("at_most", True)
    assert failed(judged(alike, alike, days, gates(), champion=champion, task="regression")) == []


def test_equal_models_with_few_positives_pass_the_guards() -> None:
    same, labels = fraud(0.7)
    rare = (np.arange(5000) < 12).astype(np.int64)
    limits = gates(accuracy=ONE_POINT, auc=None, champion={"max_drop": 0.01})
    assert failed(judged(same, same, labels, limits, champion=same)) == []
    one_less, _ = fraud(0.11)
    ten, _ = fraud(0.12)
    assert failed(judged(ten, one_less, rare, limits, champion=ten)) == []


def test_any_metric_can_be_held_against_the_champion() -> None:
    champion, labels = fraud(0.7)
    fewer, _ = fraud(0.6)
    limits = gates(accuracy=ONE_POINT, champion={"recall": {"max_drop": 0.05}})
    checks = judged(fewer, fewer, labels, limits, champion=champion)
    assert failed(checks) == ["recall against champion v1 non-inferiority"]
    check = named(checks, "recall against champion v1 non-inferiority")
    assert (check.reference, check.value) == (recall_score(labels, champion["label"]), 0.6)


def test_a_skewed_file_gated_by_accuracy_alone_is_warned_of() -> None:
    same, labels = fraud(0.7)
    warned = judged(same, same, labels, gates(accuracy=ONE_POINT, auc=None))
    assert "2.0% of the rows are positive" in named(warned, "accuracy alone").detail
    more = judged(same, same, labels, gates(accuracy=ONE_POINT, auc=None, recall={"max_drop": 0.1}))
    assert "accuracy alone" not in [check.name for check in more]


# slices


def harmed(slice_: str) -> tuple[Outputs, Outputs, Array, Outputs]:
    original, _, labels, slices = world(4000)
    scores = original["probabilities"][:, 1].copy()
    hit = (slices["Home"] == slice_) & (np.random.default_rng(1).random(4000) < 0.2)
    scores[hit] = 1 - scores[hit]
    return original, outputs(scores), labels, slices


def of_slices(world_: tuple[Outputs, Outputs, Array, Outputs], **margin: Any) -> tuple[Check, ...]:
    original, candidate, labels, slices = world_
    limits = gates(accuracy={"max_drop": 0.2}, auc=None, slices=margin)
    return judged(original, candidate, labels, limits, slices=slices)


def test_a_slice_that_lost_fails_though_the_whole_passes() -> None:
    checks = of_slices(harmed("rent"), max_drop=0.05, min_rows=100)
    assert failed(checks) == ["accuracy [Home=rent] non-inferiority"]


def test_a_slice_is_judged_by_the_metrics_that_are_named_for_it() -> None:
    checks = of_slices(harmed("rent"), min_rows=101, recall={"max_drop": 0.05}, f1={"max_drop": 0.3})
    assert failed(checks) == ["recall [Home=rent] non-inferiority"]
    assert {check.name.split()[0] for check in checks if "[" in check.name} == {"recall", "f1"}


def test_a_slice_with_too_few_rows_is_reported_and_not_judged() -> None:
    checks = of_slices(harmed("other"), max_drop=0.05, min_rows=200)
    assert failed(checks) == []
    small = named(checks, "accuracy [Home=other] non-inferiority")
    assert "reported, not judged (" in small.detail
    assert small.observed < -0.05
    strict = of_slices(harmed("other"), max_drop=0.05, min_rows=20)
    assert failed(strict) == ["accuracy [Home=other] non-inferiority"]


def test_a_slice_of_one_class_is_reported_for_metrics_that_need_two() -> None:
    original, candidate, labels, slices = world()
    slices["Home"][labels == 1] = "own"
    limits = gates(accuracy={"max_drop": 0.2}, auc={"max_drop": 0.2}, slices={"max_drop": 0.4})
    checks = judged(original, candidate, labels, limits, slices=slices)
    assert failed(checks) == []
    assert "reported, not judged" in named(checks, "auc [Home=rent] non-inferiority").detail


def test_a_minimum_for_slices_blocks_a_slice_the_model_never_served_well() -> None:
    checks = of_slices(world(), max_drop=0.4, min=0.99, min_rows=100)
    assert failed(checks) == ["accuracy [Home=own] minimum", "accuracy [Home=rent] minimum"]


# what cannot be judged


def test_no_evaluation_rows_is_an_error_and_never_a_pass() -> None:
    original, _, labels, _ = world()
    on = exam(original, labels, BOTH)
    empty = Exam(on.reading, on.truth.take(np.zeros(2000, bool)), {}, BOTH)
    side = answered("a", original, on.reading)
    with pytest.raises(Permanent, match="no evaluation rows"):
        judge(side, side, empty)


def test_a_limit_on_auc_without_scores_says_what_to_do_and_a_default_is_left_out() -> None:
    original, _, labels, _ = world()
    bare = {"label": original["label"]}
    with pytest.raises(Unfit, match=r"only labels\n  remedy: export it with probabilities"):
        judged(bare, bare, labels, BOTH)
    names = [check.name for check in judged(bare, bare, labels, gates(accuracy=ONE_POINT))]
    assert names == ["finite answers", "accuracy non-inferiority", "balanced_accuracy guard"]


def test_rows_that_cannot_say_anything_by_a_metric_are_a_reason() -> None:
    original, _, labels, _ = world()
    with pytest.raises(Permanent, match=r"gates.auc cannot be judged on these rows"):
        judged(original, original, np.minimum(labels, 0), gates(accuracy=ONE_POINT))


def test_a_check_that_no_model_could_pass_on_so_few_rows_says_so_and_how_many_would_do() -> None:
    original, _, labels, _ = world(rows=100)
    checks = judged(original, original, labels, gates(accuracy={"max_drop": 0.01}))
    said = named(checks, "accuracy non-inferiority")
    assert not said.passed
    assert "too few rows: on these 100 even a model that changes nothing shows only -0.0263" in said.detail
    assert "some 270 would do" in said.detail
    original, _, labels, _ = world(rows=270)
    assert named(
        judged(original, original, labels, gates(accuracy={"max_drop": 0.01})), "accuracy non-inferiority"
    ).passed


def test_a_worse_model_on_enough_rows_is_not_told_to_bring_more() -> None:
    original, candidate, labels, _ = world(flip=0.3)
    checks = judged(original, candidate, labels, gates(accuracy={"max_drop": 0.01}))
    assert "too few rows" not in named(checks, "accuracy non-inferiority").detail
