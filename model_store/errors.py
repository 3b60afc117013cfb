"""Errors that say their remedy.

Every error a user can meet is a `SlipwayError`. `Retryable` ones are worth another try after
`delay_seconds` (a server is down); `Permanent` ones are not (the file is wrong). Airflow's own
exceptions are made from these two in exactly one place, `slipway_airflow.failures`.

Libraries raise anything, of any length (onnx puts whole graphs into a message, a thousand slices make a
thousand lines): what a person reads is bounded here, and the whole of it goes into the log.
"""

from __future__ import annotations

import logging
import re

log = logging.getLogger("slipway.errors")

LONGEST_TEXT = 4000
LONGEST_LINE = 400

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_OF_ONNXRUNTIME = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
# Where in its source onnxruntime was: a path, a line number and a C++ signature before the sentence.
_OF_ITS_SOURCE = re.compile(
    r"/onnxruntime_src/\S+:\d+ [^()]*\([^()]*\)(?: const)?(?: \[with [^\]]*\])? *"
    r"|/project/onnx/\S+:\d+: \w+: Assertion `[^`]*` failed: *"
)


class SlipwayError(Exception):
    """What went wrong, and what to do about it."""

    def __init__(self, problem: str, *, remedy: str) -> None:
        if len(problem) > LONGEST_TEXT:
            log.warning("a problem of %d characters, of which a part is shown: %s", len(problem), problem)
        problem, remedy = bounded(problem), bounded(remedy)
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n  remedy: {self.remedy}"


class Permanent(SlipwayError):  # noqa: N818 - the design names it
    """Trying again with the same input gives the same failure."""


class Retryable(SlipwayError):  # noqa: N818 - the design names it
    """The same input may succeed later."""

    def __init__(self, problem: str, *, remedy: str, delay_seconds: float = 5.0) -> None:
        super().__init__(problem, remedy=remedy)
        self.delay_seconds = delay_seconds


def bounded(text: str, longest: int = LONGEST_TEXT) -> str:
    """The text, or its beginning and how much more there is: never more than `longest` characters."""
    if len(text) <= longest:
        return text
    more = f" ... ({len(text) - longest:,} characters more: see the log)"
    return text[: longest - len(more)] + more


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line: without colours, codes and places in its source.

    Python's own errors often say a bare value (`KeyError: 'x'`): they come with their name.
    """
    if isinstance(error, SlipwayError):
        return bounded(error.problem.splitlines()[0], LONGEST_LINE)
    if isinstance(error, MemoryError):
        return "the memory of this machine ran out"
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    if lines and lines[0].endswith((":", "indices")):
        lines[0] = " ".join(lines[:2])
    said = _OF_ITS_SOURCE.sub("", _OF_ONNXRUNTIME.sub("", lines[0])).strip() if lines else ""
    is_telling = said and not isinstance(error, (ArithmeticError, AssertionError, LookupError))
    return bounded(said if is_telling else f"{type(error).__name__}: {said}".rstrip(": "), LONGEST_LINE)
