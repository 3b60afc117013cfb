"""The gates' numbers as Great Expectations validations: a page per candidate, an expectation per limit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.errors import Permanent
from model_store.gates.expectations.docs import publish
from model_store.gates.expectations.great import Validated, great_expectations, validate
from model_store.types import Check

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation


_BOUND = {"at_least": "min_value", "at_most": "max_value"}


class Disagreement(Permanent):
    """Great Expectations and a gate do not agree on a number. One is wrong, so nothing is released."""


@dataclass(frozen=True, slots=True)
class GateDocs:
    """`passed` by candidate, and the index of the Data Docs."""

    passed: dict[str, bool]
    index: Path


def validate_checks(reports: Mapping[str, Sequence[Check]], docs_dir: Path) -> GateDocs:
    """Validate every candidate's checks and write Data Docs into `docs_dir` (pages of the same name are
    replaced). Raises `Permanent` when a candidate has no checks, or a verdict is not what its numbers say.
    """
    passed = {candidate: _validate(candidate, checks, docs_dir) for candidate, checks in reports.items()}
    return GateDocs(passed, docs_dir / "index.html")


def _validate(candidate: str, checks: Sequence[Check], docs_dir: Path) -> bool:
    import pandas as pd

    names = [check.name for check in checks]
    if not names or len(set(names)) != len(names):
        raise Permanent(
            f"{candidate} has {len(names)} checks with {len(set(names))} names",
            remedy="a candidate passes by checks, each under a name of its own",
        )
    if sideless := [check.name for check in checks if check.direction not in _BOUND]:
        raise Permanent(
            f"{candidate}: {', '.join(sideless)} does not say on which side of its limit it passes",
            remedy="report this: a gate writes `direction` into each of its checks",
        )
    frame = pd.DataFrame({check.name: [float(check.observed)] for check in checks})
    validated = validate(frame, candidate, [_expectation(check) for check in checks])
    failed = [_miss(check) for check in checks if not check.passed]
    publish(
        validated.document,
        docs_dir,
        name="gates-" + re.sub(r"[^A-Za-z0-9_.-]+", "-", candidate),
        title=f"Gates of {candidate}",
        facts={},
        failed=failed,
    )
    _refuse_disagreement(candidate, checks, validated)
    return all(finding.success for finding in validated.findings)


def _miss(check: Check) -> str:
    detail = f" ({check.detail})" if check.detail else ""
    return f"{check.name}: observed {check.observed:.6g}, limit {check.limit:g}{detail}"


def _expectation(check: Check) -> Expectation:
    """From the check's id, direction and limit; its verdict is not looked at. NaN is on neither side."""
    detail = f" ({check.detail})" if check.detail else ""
    said = f"{check.name} must be {check.direction.replace('_', ' ')} {check.limit:g}{detail}"
    between: Expectation = great_expectations().expectations.ExpectColumnMaxToBeBetween(
        column=check.name, description=said, **{_BOUND[check.direction]: check.limit}
    )
    return between


def _refuse_disagreement(candidate: str, checks: Sequence[Check], validated: Validated) -> None:
    for check, finding in zip(checks, validated.findings, strict=True):
        if finding.success != check.passed:
            raise Disagreement(
                f"{candidate}: {check.name} observed {check.observed}, limit {check.limit}: the gate says"
                f" {_verdict(check.passed)}, Great Expectations {_verdict(finding.success)}",
                remedy="nothing is released on a verdict that its numbers do not bear out: report this",
            )


def _verdict(passed: bool) -> str:
    return "passed" if passed else "failed"
