"""The expectations a spec makes of its two files, and their findings as checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from model_store.columns import missing_remedy
from model_store.errors import bounded
from model_store.gates.expectations.great import ExpectationResult, great_expectations
from model_store.release_spec import Column, Data
from model_store.types import Check

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

# Columns that are added to the rows to be judged: what they say has no column of its own.
POSITIVE = "label is positive"
LEAKED = "row is a calibration row too"
READABLE = "row can be fed to the model"
MOST_NAMED = 60
ADDED = (POSITIVE, LEAKED, READABLE)


@dataclass(frozen=True, slots=True)
class Rule:
    """One expectation in words, the number it must keep, and what to do about what was observed instead."""

    says: str
    limit: float
    expectation: Expectation
    remedy: Callable[[float], str] | None = None


def schema(required: Iterable[str]) -> Iterator[Rule]:
    """Every column that the spec or the model needs is there."""
    gxe = _expectations()
    names = sorted(set(required))
    yield Rule("has every column", 0, gxe.ExpectTableColumnsToMatchSet(column_set=names, exact_match=False))


def row_count(data: Data) -> Iterator[Rule]:
    """Enough rows to judge by."""
    gxe = _expectations()
    yield Rule("has enough rows", data.min_rows, gxe.ExpectTableRowCountToBeBetween(min_value=data.min_rows))


def columns(names: Iterable[str], said: Mapping[str, Column], *, slices: Iterable[str]) -> Iterator[Rule]:
    """Missing values, ranges and allowed values of the columns in `names`.

    Missing values of a slice column are a slice of their own, unless the spec says otherwise.
    """
    gxe = _expectations()
    may_be_empty = set(slices)
    for name in names:
        column = said.get(name, Column(nullable=name in may_be_empty))
        if not column.nullable:
            never = gxe.ExpectColumnValuesToNotBeNull(column=name)
            yield Rule(f"{name} is never missing", 0, never, partial(_fill, name))
        if column.values is not None:
            allowed = gxe.ExpectColumnValuesToBeInSet(column=name, value_set=list(column.values))
            yield Rule(f"{name} holds allowed values", 0, allowed)
        if column.min is not None or column.max is not None:
            between = gxe.ExpectColumnValuesToBeBetween(
                column=name, min_value=column.min, max_value=column.max
            )
            yield Rule(f"{name} is in range", 0, between)


def balance(data: Data) -> Iterator[Rule]:
    """The share of positive labels is plausible."""
    gxe = _expectations()
    low, high = data.min_positive_share, data.max_positive_share
    for limit, bound, said in ((low, "min_value", "at least"), (high, "max_value", "at most")):
        share = gxe.ExpectColumnMeanToBeBetween(
            column=POSITIVE,
            description=f"share of rows with {data.label} = {data.positive!r} is {said} {limit:g}",
            **{bound: limit},
        )
        yield Rule(f"positive labels are {said} {limit:g} of the rows", limit, share)


def leakage(data: Data) -> Iterator[Rule]:
    """Calibration rows are not evaluation rows: a model tuned on the exam passes it."""
    gxe = _expectations()
    limit = data.max_leaked_share
    share = gxe.ExpectColumnMeanToBeBetween(
        column=LEAKED,
        max_value=limit,
        description=f"share of rows that also stand in the calibration file is at most {limit:g}",
    )
    yield Rule("rows are not calibration rows", limit, share, _separate)


def _fill(name: str, _: float) -> str:
    return missing_remedy(name)


def _separate(share: float) -> str:
    """Equal rows need not be the same row: with few or rounded columns some are equal by nature."""
    return (
        "take rows for calibration that are not in the evaluation file; where different cases have equal"
        f" values by nature, allow their share with data.max_leaked_share: {math.ceil(share * 100) / 100:g}"
    )


def readable(problem: str) -> Iterator[Rule]:
    """The rows become tensors. With `problem`, they did not, and this is why."""
    gxe = _expectations()
    share = gxe.ExpectColumnMeanToBeBetween(
        column=READABLE, min_value=1, description=problem or "every row can be fed to the model"
    )
    yield Rule("rows can be fed to the model", 1, share)


def to_check(role: str, rule: Rule, finding: ExpectationResult) -> Check:
    """What was found, as the gates report it. `observed`: a mean or a count, or how many values are wrong."""
    observed = _observed(finding)
    remedy = rule.remedy(observed) if rule.remedy and math.isfinite(observed) else ""
    said = (rule.expectation.description, finding.exception or _what(finding.result), remedy)
    detail = "" if finding.success else bounded("; ".join(part for part in said if part))
    return Check(f"{role}: {rule.says}", observed, rule.limit, finding.success, detail)


def _observed(finding: ExpectationResult) -> float:
    if finding.exception:
        return math.nan
    result = finding.result
    if "unexpected_count" in result:
        return float(result["unexpected_count"])
    observed = result.get("observed_value")
    if isinstance(observed, (int, float)):
        return float(observed)
    return 0.0 if finding.success else float(len(_missing(result)) or 1)


def _what(result: dict[str, Any]) -> str:
    if missing := _missing(result):
        has = [name for name in result["observed_value"] if name not in ADDED]
        return f"lacks {_named(missing)}; has {_named(has)}"
    if count := result.get("unexpected_count"):
        examples = ", ".join(dict.fromkeys(map(str, result.get("partial_unexpected_list", []))))
        return f"not so for {count} of {result['element_count']} values, e.g. {examples or 'missing ones'}"
    observed = result.get("observed_value")
    return "" if observed is None else f"observed {observed}"


def _named(columns: list[str]) -> str:
    more = f" and {len(columns) - MOST_NAMED} more" if len(columns) > MOST_NAMED else ""
    return ", ".join(columns[:MOST_NAMED]) + more


def _missing(result: dict[str, Any]) -> list[str]:
    mismatched = result.get("details", {}).get("mismatched", {})
    return [str(name) for name in mismatched.get("missing", [])]


def _expectations() -> Any:
    return great_expectations().expectations
