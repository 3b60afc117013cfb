"""Times in which nothing is rolled out: a window that comes round, or one between two dates."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, ValidationInfo, field_validator

from model_store.release_spec.section import Found, Section, repeated

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
# Validation context of what was taken once: rules that are stricter by now must not take history away.
STORED = {"is_stored": True}
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CRON_REMEDY = 'five fields as in crontab, e.g. "0 16 * * fri"'
_DATE_REMEDY = 'a date or a local time in quotes, e.g. "2026-12-20" or "2026-12-20T18:00"'


class Freeze(Section):
    """Exactly one of three: `starts` and `ends`; `at`, `hours` and perhaps `weekdays`; `cron` and `hours`.

    All times are local times of `timezone`, so a window keeps to the clock on the wall when it is put
    forward or back. `hours` are counted on that clock.
    """

    reason: Annotated[str, Field(min_length=1, max_length=200)]
    timezone: str = "UTC"
    starts: str | None = None
    ends: str | None = None
    weekdays: tuple[Weekday, ...] = ()
    at: str | None = None
    cron: str | None = None
    hours: Annotated[float, Field(gt=0, le=24 * 366)] | None = None

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError) as unknown:
            raise ValueError("no time zone of the IANA database, such as Europe/Berlin") from unknown
        return name

    @field_validator("starts", "ends")
    @classmethod
    def _is_local_time(cls, text: str | None) -> str | None:
        if text is not None and _moment(text).tzinfo is not None:
            raise ValueError(f"the zone belongs into `timezone`; {_DATE_REMEDY}")
        return text

    @field_validator("at")
    @classmethod
    def _is_time_of_day(cls, text: str | None) -> str | None:
        if text is not None:
            _time_of_day(text)
        return text

    @field_validator("cron")
    @classmethod
    def _comes_round(cls, cron: str | None, about: ValidationInfo) -> str | None:
        if cron is not None:
            _refuse_bad_cron(cron, may_never_come=about.context == STORED)
        return cron

    def contradictions(self) -> list[Found]:
        given = {
            name for name in ("starts", "ends", "at", "cron", "hours") if getattr(self, name) is not None
        }
        if given not in ({"starts", "ends"}, {"at", "hours"}, {"cron", "hours"}):
            wrong = (
                f"give `starts` and `ends`, or `at` and `hours`, or `cron` and `hours`; found {sorted(given)}"
            )
            return [((), wrong)]
        if self.starts and self.ends and _moment(self.ends) <= _moment(self.starts):
            return [(("ends",), f"not after starts {self.starts}")]
        if self.weekdays and not self.at:
            return [(("weekdays",), "only with `at`")]
        return repeated("weekdays", self.weekdays)

    def until(self, now: datetime) -> datetime | None:
        """When the window that `now` (aware) lies in ends, in UTC; None outside of every window."""
        zone = ZoneInfo(self.timezone)
        local = now.astimezone(zone).replace(tzinfo=None)
        for start, end in self._windows(local):
            begin, close = _in_utc(start, zone), _in_utc(end, zone)
            if begin <= now < close:
                return close
        return None

    def _windows(self, local: datetime) -> list[tuple[datetime, datetime]]:
        """Those around the local time, the latest end first."""
        if self.starts and self.ends:
            return [(_moment(self.starts), _moment(self.ends))]
        length = timedelta(hours=self.hours or 0)
        starts = _cron_before(self.cron, local) if self.cron else self._daily_starts(local, length)
        return [(start, start + length) for start in starts]

    def _daily_starts(self, local: datetime, length: timedelta) -> list[datetime]:
        clock = _time_of_day(self.at or "0:00")
        # One day more, because the clock may have been put back meanwhile.
        days = [local.date() - timedelta(days=back) for back in range(-1, length.days + 3)]
        wanted = self.weekdays or WEEKDAYS
        return [datetime.combine(day, clock) for day in days if WEEKDAYS[day.weekday()] in wanted]


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as wrong:
        raise ValueError(_DATE_REMEDY) from wrong


def _in_utc(local: datetime, zone: ZoneInfo) -> datetime:
    try:
        return local.replace(tzinfo=zone).astimezone(UTC)
    except OverflowError:
        # "For ever" is written as the last day there is, which in UTC may be a day after it.
        return datetime.min.replace(tzinfo=UTC) if local.year == 1 else datetime.max.replace(tzinfo=UTC)


def _time_of_day(text: str) -> time:
    try:
        return datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007 - local by meaning
    except ValueError as wrong:
        raise ValueError('a time of day in quotes, e.g. "16:00"') from wrong


def _refuse_bad_cron(cron: str, *, may_never_come: bool) -> None:
    if len(cron.split()) != 5:
        raise ValueError(f"not a cron schedule; {_CRON_REMEDY}")
    try:
        comes = _ever_comes(cron)
    except ValueError as unreadable:
        raise ValueError(f"not a cron schedule ({unreadable}); {_CRON_REMEDY}") from unreadable
    if not comes and not may_never_come:
        raise ValueError(f"this date never comes; {_CRON_REMEDY}")


@lru_cache(maxsize=256)
def _ever_comes(cron: str) -> bool:
    """To find out that there is no such day takes long."""
    from croniter import CroniterBadDateError, croniter

    try:
        croniter(cron, start_time=0.0).get_prev(float)
    except CroniterBadDateError:
        return False
    return True


@lru_cache(maxsize=256)
def _cron_before(cron: str, local: datetime) -> list[datetime]:
    """The last time it came round, `local` itself included; nothing if it never does."""
    from croniter import croniter

    if not _ever_comes(cron):
        return []
    found = croniter(cron, local + timedelta(seconds=1)).get_prev(datetime)
    return [found if isinstance(found, datetime) else local]
