"""Measurements are written with two significant figures, and never say what is not so."""

from __future__ import annotations

import pytest

from serving.figures import figures, percent, setting


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0"),
        (0.00002, "0.00002"),
        (0.0512, "0.051"),
        (0.5, "0.5"),
        (1.0, "1"),
        (5.5556, "5.6"),
        (9.96, "10"),
        (55.556, "56"),
        (560.4, "560"),
        (1234.5, "1,234"),
        (-0.0742, "-0.074"),
    ],
)
def test_a_measurement_has_two_figures(value: float, words: str) -> None:
    assert figures(value) == words


def test_an_accuracy_keeps_its_last_digit_beside_others() -> None:
    assert [figures(value, 4) for value in (0.812, 0.8127, 1.0)] == ["0.8120", "0.8127", "1.000"]


@pytest.mark.parametrize(
    ("share", "words"), [(0, "0%"), (5 / 9, "56%"), (0.00051, "0.051%"), (0.9999, "over 99%"), (1, "100%")]
)
def test_almost_all_is_not_called_all(share: float, words: str) -> None:
    assert percent(share) == words


def test_what_somebody_set_is_shown_as_they_wrote_it() -> None:
    assert [setting(share) for share in (0.005, 0.125, 1.0)] == ["0.5%", "12.5%", "100%"]
