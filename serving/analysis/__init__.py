"""From counts to a Verdict: always-valid sequential tests, pure. docs/verdicts.md has the mathematics."""

from serving.analysis.policy import AnalysisPolicy

__all__ = ["AnalysisPolicy"]
