"""When a freeze of a spec or calendar is in force."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from model_store.release_spec import STORED, Freeze, InvalidSpec, load

FRIDAY = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)  # 16:00 in Berlin
WEEKEND: dict[str, Any] = {
    "reason": "weekend",
    "weekdays": ("fri",),
    "at": "16:00",
    "hours": 65,
    "timezone": "Europe/Berlin",
}


def freeze(**fields: Any) -> Freeze:
    return Freeze(**{"reason": "quiet", **fields})


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ((2026, 11, 20, 14, 59), None),
        ((2026, 11, 20, 15, 0), (2026, 11, 23, 8, 0)),
        ((2026, 11, 23, 7, 59), (2026, 11, 23, 8, 0)),
        ((2026, 11, 23, 8, 0), None),
    ],
)
def test_a_weekend_is_frozen_in_the_time_of_its_zone(
    now: tuple[int, ...], until: tuple[int, ...] | None
) -> None:
    found = Freeze(**WEEKEND).until(datetime(*now, tzinfo=UTC))  # type: ignore[arg-type,misc]
    assert found == (datetime(*until, tzinfo=UTC) if until else None)  # type: ignore[arg-type,misc]


def test_a_window_keeps_to_the_clock_on_the_wall_when_it_is_put_back() -> None:
    # On 25 October 2026 Berlin goes from UTC+2 to UTC+1 during this window.
    assert Freeze(**WEEKEND).until(datetime(2026, 10, 24, tzinfo=UTC)) == datetime(
        2026, 10, 26, 8, tzinfo=UTC
    )


def test_a_daily_window_may_reach_over_midnight() -> None:
    night = freeze(at="22:00", hours=8)
    assert night.until(datetime(2026, 11, 20, 3, tzinfo=UTC)) == datetime(2026, 11, 20, 6, tzinfo=UTC)
    assert night.until(datetime(2026, 11, 20, 12, tzinfo=UTC)) is None


@pytest.mark.parametrize("minute", [0, 30, 59])
def test_a_cron_window_begins_when_cron_says(minute: int) -> None:
    window = freeze(cron="0 15 * * fri", hours=1)
    assert window.until(FRIDAY.replace(minute=minute)) == FRIDAY.replace(hour=16)
    assert window.until(FRIDAY.replace(hour=16)) is None


def test_cron_goes_by_the_clock_of_its_zone() -> None:
    window = freeze(cron="0 16 * * fri", hours=1, timezone="Europe/Berlin")
    assert window.until(FRIDAY) == FRIDAY.replace(hour=16)
    assert window.until(FRIDAY.replace(hour=16)) is None


def test_dates_freeze_from_the_first_to_the_last_moment() -> None:
    holidays = freeze(starts="2026-12-20", ends="2027-01-06T08:00", timezone="America/New_York")
    assert holidays.until(datetime(2026, 12, 20, 4, 59, tzinfo=UTC)) is None
    assert holidays.until(datetime(2026, 12, 20, 5, 0, tzinfo=UTC)) == datetime(2027, 1, 6, 13, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, "give `starts` and `ends`, or `at` and `hours`"),
        ({"at": "16:00"}, "found \\['at'\\]"),
        ({"at": "16:00", "hours": 1, "cron": "* * * * *"}, "found"),
        ({"at": "25:00", "hours": 1}, "a time of day in quotes"),
        ({"cron": "every friday", "hours": 1}, "not a cron schedule"),
        ({"cron": "0 0 31 2 *", "hours": 1}, "this date never comes"),
        ({"cron": "0 0 30 feb *", "hours": 1}, "this date never comes"),
        ({"at": "16:00", "hours": 0}, "greater than 0"),
        ({"at": "16:00", "hours": 1, "timezone": "Berlin"}, "no time zone"),
        ({"at": "16:00", "hours": 1, "timezone": "../../etc/passwd"}, "no time zone"),
        ({"starts": "2026-12-20", "ends": "2026-12-20"}, "not after starts"),
        ({"starts": "2026-12-20T00:00Z", "ends": "2026-12-21"}, "zone belongs into `timezone`"),
        ({"starts": "tomorrow", "ends": "2026-12-21"}, "a date or a local time"),
        ({"weekdays": ("fri",), "cron": "0 0 * * *", "hours": 1}, "only with `at`"),
    ],
)
def test_a_window_that_says_no_time_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        freeze(**fields)


def test_a_window_may_begin_with_time_and_end_with_it() -> None:
    for_ever = freeze(starts="0001-01-01", ends="9999-12-31T23:00", timezone="America/New_York")
    assert for_ever.until(FRIDAY) == datetime.max.replace(tzinfo=UTC)
    since_ever = freeze(starts="0001-01-01", ends="2026-11-21", timezone="Europe/Berlin")
    assert since_ever.until(FRIDAY) == datetime(2026, 11, 20, 23, tzinfo=UTC)


def test_a_cron_window_may_come_only_in_leap_years() -> None:
    leap = freeze(cron="0 0 29 2 *", hours=24)
    assert leap.until(FRIDAY) is None
    assert leap.until(datetime(2028, 2, 29, 12, tzinfo=UTC)) == datetime(2028, 3, 1, tzinfo=UTC)


def test_a_specs_wrong_window_is_told_by_its_line(tmp_path: Path) -> None:
    good = Path("dags/releases/credit_risk.yaml").read_text()
    spec = tmp_path / "credit_risk.yaml"
    spec.write_text(good + "\nfreezes:\n  - {reason: weekend, weekdays: [friday], at: '16:00', hours: 65}\n")
    with pytest.raises(
        InvalidSpec, match=rf"credit_risk.yaml:{good.count(chr(10)) + 3}: freezes.0.weekdays.0"
    ):
        load(spec)


def test_a_window_that_was_taken_once_and_never_comes_is_read_and_is_never_in_force() -> None:
    stored = {"reason": "quiet", "cron": "0 0 31 2 *", "hours": 1}
    assert Freeze.model_validate(stored, context=STORED).until(FRIDAY) is None
    with pytest.raises(ValidationError, match="not a cron schedule"):
        Freeze.model_validate({**stored, "cron": "every day"}, context=STORED)
