"""Errors that say their remedy.

Every error a user can meet is a `SlipwayError`. `Retryable` ones are worth another try after
`delay_seconds` (a server is down); `Permanent` ones are not (the file is wrong). Airflow's own
exceptions are made from these two in exactly one place, `slipway_airflow.failures`.
"""

from __future__ import annotations


class SlipwayError(Exception):
    """What went wrong, and what to do about it."""

    def __init__(self, problem: str, *, remedy: str) -> None:
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
