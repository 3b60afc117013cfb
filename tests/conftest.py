"""Where SLIPWAY_SKIP_NOTHING is set, as in CI, a skipped test is a failed one. Only a GPU may be missing."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("gpu") is None:
        _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        _refuse(report)
    return report


@pytest.fixture(scope="session")
def lasting_environments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where models' own environments are made, once for all tests of a run."""
    folder = tmp_path_factory.mktemp("environments")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIPWAY_ENVIRONMENTS", str(folder))
        yield folder


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not os.environ.get("SLIPWAY_SKIP_NOTHING"):
        return
    why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{why}\nSLIPWAY_SKIP_NOTHING is set: everything but a GPU has to be here."
