"""The only door to Great Expectations: one data frame against one suite, in memory, with no telemetry."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation


@dataclass(frozen=True, slots=True)
class ExpectationResult:
    """What one expectation found; `result` in the words of Great Expectations (observed_value, ...)."""

    success: bool
    result: dict[str, Any]
    exception: str


@dataclass(frozen=True, slots=True)
class Validated:
    """`findings` in the order of the expectations; `document` is the whole result as JSON."""

    findings: tuple[ExpectationResult, ...]
    document: dict[str, Any]


def validate(frame: pd.DataFrame, suite: str, expectations: Sequence[Expectation]) -> Validated:
    """Check `frame` against every expectation."""
    gx = great_expectations()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("slipway").add_dataframe_asset(suite)
    batch = asset.add_batch_definition_whole_dataframe("rows").get_batch({"dataframe": frame})
    numbered = [_numbered(expectation, place) for place, expectation in enumerate(expectations)]
    validated = batch.validate(gx.ExpectationSuite(suite, expectations=numbered), result_format="SUMMARY")
    # Through text, because Data Docs cannot render the numpy numbers in it.
    document: dict[str, Any] = json.loads(json.dumps(validated.to_json_dict()))
    by_place = {result["expectation_config"]["meta"]["place"]: result for result in document["results"]}
    return Validated(tuple(_finding(by_place[place]) for place in range(len(numbered))), document)


def great_expectations() -> Any:
    """The package, imported with its analytics off: a release sends nobody anything."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    return gx


def _numbered(expectation: Expectation, place: int) -> Expectation:
    # Results come back grouped by column.
    expectation.meta = {"place": place}
    return expectation


def _finding(result: dict[str, Any]) -> ExpectationResult:
    raised = result.get("exception_info") or {}
    # One entry per failed metric, or the entry itself.
    entries = [raised] if "raised_exception" in raised else list(raised.values())
    message = next((str(e["exception_message"]) for e in entries if e.get("exception_message")), "")
    return ExpectationResult(bool(result["success"]), dict(result.get("result") or {}), message)
