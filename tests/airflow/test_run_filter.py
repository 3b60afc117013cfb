"""Which runs the scheduler examines, in Airflow's own database and by its own query."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from slipway_airflow import run_filter

from tests.airflow.world import MODEL

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

pytestmark = pytest.mark.airflow
RELEASE, NIGHTLY = f"release_{MODEL}", "release_nightly"


class Scheduler:
    """Examines runs as Airflow's does, and what it finds to be next is run by nobody."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.now = 1000.0
        self._dags: dict[str, Any] = {}

    def start(self, dag_id: str, run_id: str, **conf: str) -> DagRun:
        from airflow._shared.timezones import timezone
        from airflow.utils.state import DagRunState
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        run: DagRun = self._dag(dag_id).create_dagrun(
            run_id=run_id,
            conf=conf,
            # SQLite knows the time in whole seconds.
            run_after=timezone.utcnow() - timedelta(seconds=2),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            session=self.session,
        )
        self.session.flush()
        return run

    def look(self) -> set[str]:
        """One loop. Returns the runs that were examined."""
        from airflow.models.dagrun import DagRun

        examined = list(DagRun.get_running_dag_runs_to_examine(session=self.session))
        for run in examined:
            run.dag = self._dag(run.dag_id)
            ready, _ = run.update_state(session=self.session, execute_callbacks=False)
            run.schedule_tis(ready, session=self.session)
        self.session.flush()
        self.session.expire_all()
        return {run.run_id for run in examined}

    def look_until_quiet(self) -> None:
        while self.look():
            pass

    def set(self, run: DagRun, task_id: str, state: str) -> TaskInstance:
        """As the execution API does it: by an update, not by way of the object."""
        from airflow.models.taskinstance import TaskInstance
        from sqlalchemy import update

        chosen = (TaskInstance.run_id == run.run_id, TaskInstance.task_id == task_id)
        self.session.execute(update(TaskInstance).where(*chosen).values(state=state))
        self.session.expire_all()
        return self.task(run, task_id)

    def task(self, run: DagRun, task_id: str) -> TaskInstance:
        found = run.get_task_instance(task_id, session=self.session)
        assert found is not None
        return found

    def _dag(self, dag_id: str) -> Any:
        from airflow.models.dagbag import DBDagBag

        if dag_id not in self._dags:
            self._dags[dag_id] = DBDagBag().get_latest_version_of_dag(dag_id, session=self.session)
        return self._dags[dag_id]


@pytest.fixture
def scheduler(in_database: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    from airflow import settings
    from airflow.models.dagrun import DagRun

    assert settings.Session is not None
    monkeypatch.setattr(DagRun, "get_running_dag_runs_to_examine", DagRun.get_running_dag_runs_to_examine)
    session = settings.Session()
    scheduler = Scheduler(session)
    assert run_filter.examine_only_changed_runs(run_filter.RunFilter(clock=lambda: scheduler.now))
    yield scheduler
    session.rollback()
    session.close()


def test_a_release_in_which_nothing_happens_is_left_alone(scheduler: Scheduler) -> None:
    run = scheduler.start(RELEASE, "waits")
    assert scheduler.look() == {"waits"}
    scheduler.look_until_quiet()
    for state in ("queued", "running", "deferred", "scheduled", "running", "awaiting_input"):
        scheduler.set(run, "intake.take_turn", state)
        assert scheduler.look() == set(), state


def test_the_end_of_a_task_is_seen_at_once_and_what_follows_is_scheduled(scheduler: Scheduler) -> None:
    run, other = scheduler.start(RELEASE, "goes_on"), scheduler.start(NIGHTLY, "waits")
    scheduler.look_until_quiet()
    scheduler.set(run, "intake.take_turn", "success")
    assert scheduler.look() == {"goes_on"}
    assert scheduler.task(run, "intake.export").state == "scheduled"
    assert scheduler.task(other, "intake.export").state is None


def test_a_failure_is_carried_on_until_the_run_has_failed(scheduler: Scheduler) -> None:
    run = scheduler.start(RELEASE, "fails")
    scheduler.look_until_quiet()
    scheduler.set(run, "intake.take_turn", "failed")
    scheduler.look_until_quiet()
    assert run.state == "failed"


def test_a_task_that_is_to_be_tried_again_is_examined_until_its_time_comes(scheduler: Scheduler) -> None:
    run = scheduler.start(RELEASE, "tries_again")
    scheduler.look_until_quiet()
    ti = scheduler.set(run, "intake.take_turn", "up_for_retry")
    ti.end_date = run.run_after
    ti.try_number = 1
    assert scheduler.look() == {"tries_again"}
    assert scheduler.look() == {"tries_again"}


def test_a_task_that_lost_its_state_is_scheduled_again(scheduler: Scheduler) -> None:
    """So Airflow leaves a task whose process is gone."""
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import update

    run = scheduler.start(RELEASE, "orphan")
    scheduler.look_until_quiet()
    scheduler.set(run, "intake.take_turn", "success")
    scheduler.look_until_quiet()
    scheduler.session.execute(
        update(TaskInstance)
        .where(TaskInstance.run_id == "orphan", TaskInstance.task_id == "intake.export")
        .values(state=None)
    )
    assert scheduler.look() == {"orphan"}
    assert scheduler.task(run, "intake.export").state == "scheduled"


def test_a_cleared_run_is_examined(scheduler: Scheduler) -> None:
    from airflow.models.taskinstance import clear_task_instances
    from airflow.utils.state import DagRunState

    run = scheduler.start(RELEASE, "cleared")
    scheduler.look_until_quiet()
    scheduler.set(run, "intake.take_turn", "success")
    scheduler.look_until_quiet()
    ti = scheduler.task(run, "intake.take_turn")
    clear_task_instances([ti], scheduler.session, dag_run_state=DagRunState.RUNNING)
    scheduler.session.flush()
    assert scheduler.look() == {"cleared"}
    assert scheduler.task(run, "intake.take_turn").state == "scheduled"


def test_what_this_knows_nothing_of_is_found_sooner_or_later_one_run_a_loop(scheduler: Scheduler) -> None:
    names = {"first", "second", "third"}
    for name in names:
        scheduler.start(RELEASE, name)
    scheduler.look_until_quiet()
    scheduler.now += run_filter.ANYWAY_SECONDS
    looks = [scheduler.look() for _ in range(4)]
    assert [len(examined) for examined in looks] == [1, 1, 1, 0]
    assert set.union(*looks) == names


def test_a_rollback_is_examined_in_every_loop(scheduler: Scheduler) -> None:
    scheduler.start("model_rollback", "back", model=MODEL, reason="an alert")
    assert [scheduler.look() for _ in range(4)] == [{"back"}] * 4


def test_quiet_releases_do_not_stand_before_one_that_goes_on(scheduler: Scheduler) -> None:
    """Airflow takes 20 runs in a loop, those first that it examined longest ago."""
    last = scheduler.start(RELEASE, "last")
    for number in range(40):
        scheduler.start(RELEASE, f"quiet_{number}")
    scheduler.look_until_quiet()
    scheduler.set(last, "intake.take_turn", "success")
    assert scheduler.look() == {"last"}


def test_more_than_airflow_takes_in_a_loop_are_examined_in_the_next(scheduler: Scheduler) -> None:
    runs = [scheduler.start(RELEASE, f"run_{number}") for number in range(30)]
    scheduler.look_until_quiet()
    for run in runs:
        scheduler.set(run, "intake.take_turn", "success")
    first, second = scheduler.look(), scheduler.look()
    assert (len(first), len(second)) == (20, 10)
    assert first | second == {run.run_id for run in runs}


def test_the_airflow_that_is_installed_is_the_one_that_is_known(airflow_database: Path) -> None:
    """After an upgrade: read what `due` narrows again, then change `KNOWN`."""
    from airflow import __version__

    assert __version__ == run_filter.KNOWN


def test_another_airflow_is_left_as_it_is(
    airflow_database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow.models.dagrun import DagRun

    before = DagRun.get_running_dag_runs_to_examine
    monkeypatch.setattr(run_filter, "KNOWN", "0.0.0")
    assert not run_filter.examine_only_changed_runs()
    assert DagRun.get_running_dag_runs_to_examine == before
    assert "every run is examined" in caplog.text


@pytest.mark.parametrize("every", [True, False])
def test_a_scheduler_that_starts_examines_what_changed_unless_told_otherwise(
    airflow_database: Path, monkeypatch: pytest.MonkeyPatch, every: bool
) -> None:
    from airflow.jobs.job import Job
    from airflow.models.dagrun import DagRun
    from slipway_airflow import pools, preloading

    before = DagRun.get_running_dag_runs_to_examine
    monkeypatch.setattr(DagRun, "get_running_dag_runs_to_examine", before)
    monkeypatch.setenv("AIRFLOW__SLIPWAY__EXAMINE_EVERY_RUN", str(every))
    monkeypatch.setattr("sys.argv", ["airflow", "scheduler"])
    monkeypatch.setattr(preloading, "preload", list)
    # Another test is about these, in the same database.
    monkeypatch.setattr(pools, "make_missing", lambda parallelism: None)
    preloading.PreloadListener().on_starting(Job())  # type: ignore[no-untyped-call]
    assert (DagRun.get_running_dag_runs_to_examine == before) is every
