"""Whether a `schedule` is one that Airflow understands and that ever comes round."""

from __future__ import annotations

# Airflow's own names (airflow.utils.dates.cron_presets); the rest is croniter's, as in Airflow's timetable.
PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
REMEDY = f"five fields as in crontab (`0 3 * * *`: daily at 3:00 UTC), or one of {', '.join(PRESETS)}"


def refuse_bad_schedule(schedule: str) -> str:
    """Return `schedule` unchanged. Raises `ValueError` when cron cannot read it or it never comes round."""
    if schedule in PRESETS:
        return schedule
    if len(schedule.split()) != 5:
        raise ValueError(f"not a cron schedule; {REMEDY}")
    # Here, because most specs have no schedule and need not wait for the import.
    from croniter import CroniterBadDateError, croniter

    try:
        croniter(schedule, start_time=0.0).get_next(float)
    except CroniterBadDateError as never:
        raise ValueError(f"this date never comes; {REMEDY}") from never
    except ValueError as unreadable:
        raise ValueError(f"not a cron schedule ({unreadable}); {REMEDY}") from unreadable
    return schedule
