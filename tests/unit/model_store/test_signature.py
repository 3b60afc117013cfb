"""Which changes of inputs and outputs break those who call the version that serves."""

from __future__ import annotations

import pytest

from model_store.gates.signature import VersionSignature, changes, judge_signature
from model_store.types import TensorSpec

INPUT = TensorSpec("input", "FP32", (-1, 4))
LABEL = TensorSpec("label", "INT64", (-1,))
SCORES = TensorSpec("scores", "FP32", (-1, 2))
SERVING = VersionSignature(3, (INPUT,), (LABEL, SCORES))


def tensor(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, datatype, shape)  # type: ignore[arg-type]


def found(candidate: VersionSignature, serving: VersionSignature = SERVING) -> list[str]:
    broken = changes(serving, candidate)
    return [*broken.inputs, *broken.outputs]


def takes(*inputs: TensorSpec) -> VersionSignature:
    return VersionSignature(4, inputs, SERVING.outputs)


def answers(*outputs: TensorSpec) -> VersionSignature:
    return VersionSignature(4, SERVING.inputs, outputs)


def test_the_same_signature_breaks_nobody() -> None:
    assert found(VersionSignature(4, SERVING.inputs, SERVING.outputs)) == []


def test_the_order_of_tensors_is_nobodys_business() -> None:
    assert found(answers(SCORES, LABEL)) == []


def test_an_input_of_another_name_is_one_gone_and_one_new() -> None:
    assert found(takes(tensor("x", "FP32", -1, 4))) == [
        "input input FP32[-1, 4] is gone",
        "input x FP32[-1, 4] is new, and nobody sends it",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        tensor("input", "FP64", -1, 4),
        tensor("input", "FP32", -1, 5),
        tensor("input", "FP32", -1, 4, 1),
        tensor("input", "FP32", -1),
    ],
)
def test_an_input_of_another_type_size_or_rank_breaks(changed: TensorSpec) -> None:
    assert found(takes(changed)) == [f"input {INPUT} became {changed}"]


def test_an_input_may_take_more_sizes_and_not_fewer() -> None:
    free, fixed = tensor("input", "FP32", -1, -1), tensor("input", "FP32", -1, 4)
    assert found(VersionSignature(4, (free,), ()), VersionSignature(3, (fixed,), ())) == []
    assert found(VersionSignature(4, (fixed,), ()), VersionSignature(3, (free,), ())) == [
        f"input {free} became {fixed}"
    ]


def test_an_output_may_be_added_and_none_may_go() -> None:
    assert found(answers(LABEL, SCORES, tensor("why", "BYTES", -1))) == []
    assert found(answers(SCORES)) == ["output label INT64[-1] is gone"]


@pytest.mark.parametrize(
    "changed",
    [
        tensor("scores", "FP16", -1, 2),
        tensor("scores", "FP32", -1, 3),
        tensor("scores", "FP32", -1),
        tensor("scores", "FP32", -1, -1),
        tensor("scores", "FP32", 1, 2),
    ],
)
def test_an_output_of_another_type_size_or_rank_breaks(changed: TensorSpec) -> None:
    assert found(answers(LABEL, changed)) == [f"output {SCORES} became {changed}"]


def test_an_output_may_become_more_definite() -> None:
    free = tensor("scores", "FP32", -1, -1)
    assert found(answers(SCORES), VersionSignature(3, SERVING.inputs, (free,))) == []


def test_an_output_may_become_as_free_as_an_input_did() -> None:
    """A model of 128 tokens that now takes any number answers that number, and 128 to who sends 128."""
    fixed = VersionSignature(3, (tensor("ids", "INT64", -1, 128),), (tensor("tags", "FP32", -1, 128, 9),))
    free = VersionSignature(4, (tensor("ids", "INT64", -1, -1),), (tensor("tags", "FP32", -1, -1, 9),))
    assert found(free, fixed) == []
    assert found(fixed, free) == ["input ids INT64[-1, -1] became ids INT64[-1, 128]"]


def test_the_check_counts_what_breaks_and_says_what_to_do() -> None:
    check = judge_signature(SERVING, takes(tensor("x", "FP32", -1, 4)), may_break=None)
    assert (check.name, check.observed, check.limit) == ("signature against champion v3", 2.0, 0.0)
    assert not check.passed
    assert "input input FP32[-1, 4] is gone" in check.detail
    assert "export it as v3 is" in check.detail
    assert "gates.signature.may_break: 3" in check.detail


def test_nothing_changed_passes_and_says_what_was_compared() -> None:
    check = judge_signature(SERVING, SERVING, may_break=None)
    assert (check.observed, check.limit, check.passed) == (0.0, 0.0, True)
    assert check.detail == "takes what callers of v3 send, answers what they read"


def test_a_planned_break_is_allowed_for_the_version_it_names_and_still_told() -> None:
    broken = takes(tensor("x", "FP32", -1, 4))
    planned = judge_signature(SERVING, broken, may_break=3)
    assert (planned.observed, planned.limit, planned.passed) == (2.0, 2.0, True)
    assert "input input FP32[-1, 4] is gone" in planned.detail
    assert "gates.signature.may_break" in planned.detail
    # Left in the spec, it allows nothing once another version serves.
    other = judge_signature(SERVING, broken, may_break=2)
    assert not other.passed
    assert "may_break: 3 (it says 2)" in other.detail
