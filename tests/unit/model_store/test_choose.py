"""The choice among candidates: by preference, with ties, falling back, and never one that failed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.gates.choose import UNLIKE, Contender, NothingPassed, choose, shortfalls
from model_store.types import Check, GateReport

ORDER = ("int8", "fp16", "fp32")
PASSED = Check("accuracy non-inferiority", -0.001, -0.01, True)
FAILED = Check("accuracy non-inferiority", -0.034, -0.01, False, "0.81 -> 0.79")


def contender(precision, *, ratio=1.0, size=100, checks=(PASSED,), within=None) -> Contender:
    report = GateReport("sha256:data", tuple(checks))
    return Contender(precision, f"sha256:{precision}", report, ratio, size, within)


def chosen(*contenders: Contender, prefer="latency") -> str:
    return choose(contenders, prefer=prefer, order=ORDER).contender.precision


def test_the_fastest_that_passed_is_chosen() -> None:
    assert chosen(contender("fp32"), contender("int8", ratio=0.6), contender("fp16", ratio=0.9)) == "int8"
    assert chosen(contender("fp32"), contender("int8", ratio=1.4)) == "fp32"


def test_one_that_failed_is_never_chosen_however_fast() -> None:
    assert chosen(contender("fp32"), contender("int8", ratio=0.1, size=1, checks=[FAILED])) == "fp32"


def test_without_checks_nothing_has_passed() -> None:
    with pytest.raises(NothingPassed, match="nothing was checked"):
        chosen(contender("int8", checks=[]))


def test_a_smaller_file_that_is_four_percent_slower_is_not_as_fast() -> None:
    full = contender("fp32", ratio=1.0, size=300, within=(0.99, 1.01))
    half = contender("fp16", ratio=1.04, size=150, within=(1.03, 1.05))
    choice = choose([full, half], prefer="latency", order=ORDER)
    assert choice.contender is full
    assert choice.reason == "fastest of 2 that passed: p50 is 1 of fp32's"


def test_of_two_that_measuring_cannot_tell_apart_the_smaller_file_is_chosen_and_it_says_so() -> None:
    full = contender("fp32", ratio=1.0, size=3_000_000, within=(0.98, 1.03))
    half = contender("fp16", ratio=1.04, size=1_500_000, within=(1.02, 1.06))
    choice = choose([full, half], prefer="latency", order=ORDER)
    assert choice.contender is half
    assert choice.reason == (
        "p50 is 1.04 of fp32's, which measuring cannot tell from fp32's 1;"
        " of these the smallest file, 1.50 MB; 2 passed"
    )


def test_equally_fast_and_small_falls_back_from_int8_to_fp32() -> None:
    assert chosen(contender("fp32"), contender("fp16"), contender("int8")) == "int8"
    assert chosen(contender("fp32"), contender("fp16"), contender("int8", checks=[FAILED])) == "fp16"
    assert chosen(contender("fp32"), contender("fp16", checks=[FAILED])) == "fp32"


def test_the_smallest_can_be_preferred() -> None:
    fast, small = contender("fp32", ratio=0.5, size=300), contender("fp16", size=150)
    assert chosen(fast, small, prefer="size") == "fp16"


def test_the_order_of_the_spec_can_be_preferred() -> None:
    contenders = (contender("int8", ratio=0.1), contender("fp32", ratio=9.0))
    assert choose(contenders, prefer="order", order=("fp32", "int8")).contender.precision == "fp32"
    assert choose(contenders, prefer="order", order=("int8", "fp32")).contender.precision == "int8"


def test_when_none_passed_each_says_which_limit_and_by_how_much() -> None:
    slow = Check("latency ratio", 1.8, 1.5, False)
    with pytest.raises(NothingPassed) as found:
        choose(
            [contender("int8", checks=[PASSED, FAILED]), contender("fp32", checks=[FAILED, slow])],
            prefer="latency",
            order=ORDER,
            unavailable=["fp16: no operator to convert"],
        )
    assert str(found.value).splitlines() == [
        "no candidate kept every limit:",
        "  int8: accuracy non-inferiority -0.034, limit -0.01, missed by 0.024 (0.81 -> 0.79)",
        "  fp32: accuracy non-inferiority -0.034, limit -0.01, missed by 0.024 (0.81 -> 0.79); "
        "latency ratio 1.8, limit 1.5, missed by 0.3",
        "  fp16: no operator to convert",
        "  remedy: look at the gate report; improve the model, or change the limits in the release spec",
    ]


def test_no_candidate_at_all_is_not_a_pass() -> None:
    with pytest.raises(NothingPassed, match="there is no candidate"):
        choose([], prefer="latency", order=ORDER)


def test_where_no_engine_could_run_the_order_of_the_spec_decides_and_the_reason_says_so() -> None:
    unknown = [contender("fp16", ratio=None, size=1), contender("int8", ratio=None, size=2)]
    choice = choose(unknown, prefer="latency", order=ORDER)
    assert choice.contender.precision == "int8"
    assert choice.reason.startswith("latency was not measured, for no engine was run here: first of int8,")
    assert chosen(*unknown, prefer="size") == "fp16"
    assert chosen(contender("fp32", ratio=2.0), *unknown) == "fp32"


def test_a_passed_report_has_no_shortfall() -> None:
    assert shortfalls(GateReport("sha256:00", (PASSED,))) == "passed"


contenders = st.lists(
    st.builds(
        contender,
        st.sampled_from(ORDER),
        ratio=st.floats(0.1, 10),
        size=st.integers(1, 10**9),
        checks=st.sampled_from([(PASSED,), (FAILED,), (PASSED, FAILED)]),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(contenders, st.sampled_from(["latency", "size", "order"]))
def test_whatever_is_chosen_passed_and_nothing_much_faster_did(candidates, prefer) -> None:
    passed = [one for one in candidates if one.report.passed]
    if not passed:
        with pytest.raises(NothingPassed):
            choose(candidates, prefer=prefer, order=ORDER)
        return
    best = choose(candidates, prefer=prefer, order=ORDER).contender
    assert best in passed
    if prefer == "latency":
        assert best.latency_ratio == min(one.latency_ratio for one in passed)
    if prefer == "size":
        assert best.size_bytes == min(one.size_bytes for one in passed)


def unlike(share: float) -> Check:
    return Check(UNLIKE, share, 1.0, True, direction="at_most")


BESIDE = ("int8", "fp32", "original")


@pytest.mark.parametrize(("ratio", "times"), [(14.2, "14"), (4712.3, "4,712"), (1.26, "1.3")])
def test_an_export_says_what_it_is_worth_beside_the_model_as_it_was_logged(ratio: float, times: str) -> None:
    logged = contender("original", ratio=ratio, size=60_000_000)
    exported = contender("fp32", checks=[PASSED, unlike(0.0)])
    choice = choose([exported, logged], prefer="latency", order=BESIDE)
    assert choice.contender is exported
    assert choice.reason.endswith(f"; {times} times the speed of the model as it was logged, same decisions")


def test_decisions_that_changed_are_said() -> None:
    logged = contender("original", ratio=2.0)
    exported = contender("int8", ratio=0.5, checks=[PASSED, unlike(0.0125)])
    reason = choose([exported, logged], prefer="latency", order=BESIDE).reason
    assert reason.endswith("; 4 times the speed of the model as it was logged, 1.25% other decisions")


def test_the_model_as_it_was_logged_is_chosen_where_it_is_faster_and_where_it_is_all_that_passed() -> None:
    logged = contender("original", ratio=0.5)
    assert choose([contender("fp32"), logged], prefer="latency", order=BESIDE).contender is logged
    failed = contender("fp32", checks=[FAILED])
    choice = choose([failed, logged], prefer="latency", order=BESIDE)
    assert (choice.contender, "fp32: accuracy" in choice.reason) == (logged, True)
    alone = choose([logged], prefer="latency", order=BESIDE, unavailable=["fp32: cannot be exported: no"])
    assert alone.reason == "served as it was logged: fp32: cannot be exported: no"
