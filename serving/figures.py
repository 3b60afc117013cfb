"""Measurements as people read them: two significant figures. Counts are written out, never shortened."""

from __future__ import annotations

from typing import Literal

import numpy as np


def figures(value: float, digits: int = 2) -> str:
    """`0.051`, `1.2`, `56`, `1,234`: never with an exponent, and wholes keep all their digits.

    More than two are asked for where small differences count: there `0.8120` keeps its last one.
    """
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    trim: Literal["-", "k"] = "-" if digits == 2 else "k"
    return np.format_float_positional(value, precision=digits, unique=False, fractional=False, trim=trim)


def percent(share: float) -> str:
    """`0.34%` for 0.00338. What is not quite all is never called 100%, nor what is not nothing 0%."""
    if 0.995 <= share < 1:
        return "over 99%"
    return f"{figures(100 * share)}%"


def setting(share: float) -> str:
    """`12.5%`: what somebody wrote down is shown as they did."""
    return f"{100 * share:.6g}%"
