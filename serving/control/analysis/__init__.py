"""From counts to a Verdict: always-valid sequential tests, pure. docs/verdicts.md has the mathematics.

The controller keeps one `JudgeState` per release: `begin()`, then `observe` (or `observe_all`) each tick's
`Increment`, and `verdict` whenever one is wanted. `judge` is one look at one span's counts.
"""

from serving.control.analysis.accumulation import begin, observe, observe_all
from serving.control.analysis.policy import AnalysisPolicy
from serving.control.analysis.rules import judge, verdict
from serving.control.analysis.state import Increment, JudgeState

__all__ = [
    "AnalysisPolicy",
    "Increment",
    "JudgeState",
    "begin",
    "judge",
    "observe",
    "observe_all",
    "verdict",
]
