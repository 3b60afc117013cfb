"""What became of the tests. Those that failed are repeated once, alone, and the last lines name them.

A test that waits for real processes can fail because the machine was busy. So each that failed gets a second
chance in a process of its own, after all others have ended. One that passes then is named as flaky, and one
that fails again fails the run. A module whose tests tell one story (marked `story`) is repeated as a whole.
Where many fail, the change is broken, not the test, and nothing is repeated; nor is anything after the first
that failed twice, for then the run has failed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tools import command_for

# Beyond them the change is what is broken.
MOST_REPEATED = 20

# So many files are named as those that took longest.
SLOWEST = 20

# pytest's exit status. With any other it did not come to its tests.
_PASSED, _FAILED, _INTERRUPTED = 0, 1, 2

Run = Callable[[tuple[str, ...]], int]


@dataclass
class Outcomes:
    """Of tests by their ids. `skipped`: why. `flaky`: failed, then passed. `stories`: failed as part of one.
    `not_set_up`: failed before they began.

    `broken`: a module that could not be collected, an interruption, no test at all. `seconds`: of tests and
    what they set up, by file; several run at once, so that together they are more than the clock's.
    """

    passed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)
    stories: set[str] = field(default_factory=set)
    not_set_up: set[str] = field(default_factory=set)
    flaky: set[str] = field(default_factory=set)
    seconds: Counter[str] = field(default_factory=Counter)
    broken: bool = False
    interrupted: bool = False

    @property
    def status(self) -> int:
        """Exit status."""
        return int(self.broken or bool(self.failed))

    def add(self, other: Outcomes) -> None:
        self.passed |= other.passed
        self.failed |= other.failed
        self.skipped |= other.skipped
        self.flaky |= other.flaky
        self.seconds.update(other.seconds)
        self.broken |= other.broken
        self.interrupted |= other.interrupted


def run_tests(run: Run, *arguments: str) -> Outcomes:
    """Run pytest with these arguments, then each test that failed once more, alone."""
    outcomes = _run_once(run, *arguments)
    to_repeat = sorted({_together(test, outcomes) for test in outcomes.failed})
    if outcomes.broken or len(to_repeat) > MOST_REPEATED:
        return outcomes
    for part in to_repeat:
        again = _run_once(run, *part)
        # In a story, also what fails now and passed before.
        outcomes.flaky |= outcomes.failed & again.passed | again.failed & outcomes.passed
        outcomes.interrupted |= again.interrupted
        if again.status:
            break
    outcomes.failed -= outcomes.flaky
    outcomes.passed |= outcomes.flaky
    return outcomes


def _together(test: str, outcomes: Outcomes) -> tuple[str, ...]:
    """What is repeated for it: its module if each of its tests starts from what the one before left."""
    module = test.partition("::")[0]
    if test in outcomes.stories:
        return (module,)
    if test in outcomes.not_set_up:
        return tuple(sorted(one for one in outcomes.not_set_up if one.partition("::")[0] == module))
    return (test,)


def _run_once(run: Run, *arguments: str) -> Outcomes:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "report.jsonl"
        status, interrupted = _INTERRUPTED, True
        with suppress(KeyboardInterrupt):
            status = run((sys.executable, "-m", "pytest", *arguments, f"--report-log={log}"))
            interrupted = False
        outcomes = _read(log)
    outcomes.interrupted = interrupted
    outcomes.broken |= status not in (_PASSED, _FAILED) or (status == _FAILED and not outcomes.failed)
    return outcomes


def _read(log: Path) -> Outcomes:
    outcomes = Outcomes()
    for entry in _entries(log):
        is_test = entry["$report_type"] == "TestReport"
        if is_test:
            outcomes.seconds[entry["nodeid"].partition("::")[0]] += entry["duration"]
        if entry["outcome"] == "failed":
            if is_test:
                outcomes.failed.add(entry["nodeid"])
                if entry["when"] == "setup":
                    outcomes.not_set_up.add(entry["nodeid"])
                if "story" in entry["keywords"]:
                    outcomes.stories.add(entry["nodeid"])
            else:
                outcomes.broken = True
        elif entry["outcome"] == "skipped":
            outcomes.skipped[entry["nodeid"]] = _reason(entry["longrepr"])
        elif is_test and entry["when"] == "call":
            outcomes.passed.add(entry["nodeid"])
    # An error after its end makes a test that passed one that failed.
    outcomes.passed -= outcomes.failed
    return outcomes


def _entries(log: Path) -> Iterator[dict[str, Any]]:
    """Of what pytest was killed while it wrote, the last line is half a one."""
    for line in log.read_text().splitlines() if log.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if entry.get("$report_type") in ("TestReport", "CollectReport"):
            yield entry


def _reason(longrepr: Any) -> str:
    words = longrepr[2] if isinstance(longrepr, list) else str(longrepr)
    return str(words).removeprefix("Skipped: ")


def slowest_lines(outcomes: Outcomes) -> list[str]:
    """The files that tests wait for longest."""
    slowest = outcomes.seconds.most_common(SLOWEST)
    return [f"{seconds:5.0f} s in {file}" for file, seconds in slowest if seconds >= 1]


def closing_lines(outcomes: Outcomes) -> list[str]:
    """The last is the count, in pytest's words."""
    lines = []
    if outcomes.skipped:
        reasons = Counter(outcomes.skipped.values())
        lines.append(f"Not tested: {len(outcomes.skipped)}")
        lines += [f"  {count:4} {reason}" for reason, count in reasons.most_common()]
        if command := command_for(reasons):
            lines.append(f"  To test what lacks a program: {command}")
    if outcomes.flaky:
        lines.append(f"Flaky, failed among the others and passed alone: {len(outcomes.flaky)}")
        lines += [f"  {test}" for test in sorted(outcomes.flaky)]
    if outcomes.failed:
        lines.append(f"Failed, and again alone or not repeated any more: {len(outcomes.failed)}")
        lines += [f"  {test}" for test in sorted(outcomes.failed)]
    if outcomes.broken:
        lines.append("Some tests were not run: see above what stopped them.")
    counts = len(outcomes.passed), len(outcomes.failed), len(outcomes.skipped)
    return [*lines, "{} passed, {} failed, {} skipped".format(*counts)]
