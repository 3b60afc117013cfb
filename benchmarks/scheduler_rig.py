"""Airflow's scheduler by itself, for `benchmarks.scheduler_loop`: its loop, database and our DAGs are real.

Its workers are not: they take what is queued, and end it after the seconds that such a task takes on two
cores, by a clock that runs as fast as the scheduler's processor time and its pauses do. So a hundred releases
need neither pods nor quiet: what they cost the scheduler is the same on a machine that does other things too.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from airflow import settings
from airflow._shared.timezones import timezone
from airflow.dag_processing.collection import update_dag_parsing_results_in_db
from airflow.dag_processing.dagbag import DagBag
from airflow.executors.base_executor import BaseExecutor
from airflow.jobs import scheduler_job_runner
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagbag import DBDagBag
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.db import initdb
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from slipway_airflow import pools, run_filter
from sqlalchemy import event, func, select, update

CORES, SLOTS = 2, 4
# Of the demo's model, on a core of its own: a release is some 20 tasks, and one verdict is waited for.
TASK_SECONDS, VERDICT_SECONDS = 1.0, 3.0
WAITS = {"rollout.roll_out"}
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


class Over(Exception):  # noqa: N818 - no error: how the scheduler's endless loop is left
    """Every run has ended."""


class Workers(BaseExecutor):
    """Four slots on two cores, and a triggerer."""

    is_local = True

    def __init__(self) -> None:
        super().__init__(parallelism=SLOTS)
        # Of these workers: neither belongs to the scheduler.
        self.spent, self.acts = 0.0, False
        self.counted = Counter[str]()
        # Whether the first task of each release is deferred for good.
        self.parks = False
        self.is_over: Callable[[], bool] = self.idle
        self._at_work: dict[Any, list[Any]] = {}
        self._deferred = list[list[Any]]()
        self._verdicts = set[Any]()
        self.now = 1000.0
        self._slept, self._since = 0.0, time.process_time()

    def sleep(self, seconds: float) -> None:
        self._slept += seconds

    def _process_workloads(self, workloads: Any) -> None:
        began, self.acts = time.process_time(), True
        for workload in workloads:
            self.queued_tasks.pop(workload.key)
            self._at_work[workload.key] = [workload.ti, TASK_SECONDS]
            self.running.add(workload.key)
            self._write(workload.ti, TaskInstanceState.RUNNING)
        self.spent, self.acts = self.spent + time.process_time() - began, False

    def sync(self) -> None:
        """What happened since the last loop."""
        began, self.acts = time.process_time(), True
        elapsed, self._slept = self._slept + began - self._since, 0.0
        self.now += elapsed
        self.counted["loops"] += 1
        pace = min(1.0, CORES / max(1, len(self._at_work)))
        for key, at_work in list(self._at_work.items()):
            at_work[1] -= elapsed * pace
            if at_work[1] <= 0:
                self._end(key, at_work[0])
        for waits in list(self._deferred):
            waits[1] -= elapsed
            if waits[1] <= 0:
                self._deferred.remove(waits)
                self._write(waits[0], TaskInstanceState.SCHEDULED)
        if self.is_over():
            raise Over
        self._since = time.process_time()
        self.spent, self.acts = self.spent + self._since - began, False

    def idle(self) -> bool:
        """Nothing is left to do, now or later."""
        busy = self._at_work or self._deferred or self.queued_tasks
        return not busy and _under_way() == (_parked() if self.parks else 0)

    def _end(self, key: Any, ti: Any) -> None:
        del self._at_work[key]
        if self.parks:
            self._write(ti, TaskInstanceState.DEFERRED)
        elif ti.task_id in WAITS and ti.id not in self._verdicts:
            self._verdicts.add(ti.id)
            self._deferred.append([ti, VERDICT_SECONDS])
            self._write(ti, TaskInstanceState.DEFERRED)
        else:
            where = {
                "dag_id": ti.dag_id,
                "task_id": ti.task_id,
                "run_id": ti.run_id,
                "map_index": ti.map_index,
            }
            with create_session() as session:
                XComModel.set("return_value", "digest", **where, session=session)
            self._write(ti, TaskInstanceState.SUCCESS)
        self.success(key)

    def _write(self, ti: Any, state: TaskInstanceState) -> None:
        now = timezone.utcnow()
        at = {"start_date": now} if state is TaskInstanceState.RUNNING else {"end_date": now}
        with create_session() as session:
            session.execute(update(TaskInstance).where(TaskInstance.id == ti.id).values(state=state, **at))


class Rig:
    """A scheduler with the DAGs of `file` in its database."""

    def __init__(self, file: str, how: str) -> None:
        initdb()
        pools.make_missing(SLOTS)
        self.dag_ids = _serialize(file)
        self.workers = Workers()
        if how == "changed":
            assert run_filter.examine_only_changed_runs(run_filter.RunFilter(clock=lambda: self.workers.now))
        with create_session() as session:
            job = Job()  # type: ignore[no-untyped-call]
            session.add(job)
            session.flush()
            session.expunge(job)
        self.runner = SchedulerJobRunner(job=job, executors=[self.workers])
        setattr(scheduler_job_runner, "time", _Time(self.workers))  # noqa: B010 - a module's name
        event.listen(settings.engine, "before_cursor_execute", self._asked)
        self._examine = self.runner._schedule_dag_run
        setattr(self.runner, "_schedule_dag_run", self._looked)  # noqa: B010 - as the scheduler calls it

    def start(self, releases: int) -> None:
        chosen, self.dag_ids = self.dag_ids[:releases], self.dag_ids[releases:]
        with create_session() as session:
            for dag_id in chosen:
                dag: Any = DBDagBag().get_latest_version_of_dag(dag_id, session=session)
                dag.create_dagrun(
                    run_id="bench",
                    run_after=LONG_AGO,
                    run_type=DagRunType.MANUAL,
                    triggered_by=DagRunTriggeredByType.TEST,
                    state=DagRunState.QUEUED,
                    session=session,
                )

    def together(self, releases: int) -> dict[str, float]:
        """So many from the same moment to the end of the last: what each costs the scheduler."""
        self.start(releases)
        return {"releases": releases, **self._run(releases)}

    def waiting(self, releases: int, loops: int) -> dict[str, float]:
        """What a loop costs while in so many releases nothing happens."""
        self.workers.parks = True
        self.start(releases)
        self._run(1)
        self.workers.is_over = lambda: self.workers.counted["loops"] >= loops
        return {"releases": releases, **self._run(loops)}

    def _run(self, share: int) -> dict[str, float]:
        """The scheduler's loop until it is over: processor seconds and counts, divided by `share`."""
        self.workers.spent = 0.0
        self.workers.counted.clear()
        began = time.process_time()
        try:
            self.runner._run_scheduler_loop()
        except Over:
            spent = time.process_time() - began - self.workers.spent
        return {"cpu": spent / share, **{name: n / share for name, n in self.workers.counted.items()}}

    def _looked(self, *arguments: Any, **named: Any) -> Any:
        self.workers.counted["looks"] += 1
        return self._examine(*arguments, **named)

    def _asked(self, *_: Any) -> None:
        self.workers.counted["sql"] += not self.workers.acts


class _Time:
    """The module `time` for the scheduler, whose pauses nobody has to wait for."""

    def __init__(self, workers: Workers) -> None:
        self.sleep = workers.sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def _serialize(file: str) -> list[str]:
    bag = DagBag(file, safe_mode=True)
    with create_session() as session:
        session.merge(DagBundleModel(name="bench"))
        session.flush()
        parsed = [LazyDeserializedDAG.from_dag(dag) for dag in bag.dags.values()]
        update_dag_parsing_results_in_db("bench", None, parsed, {}, None, set(), session)
    return sorted(bag.dags)


def _under_way() -> int:
    with create_session() as session:
        states = (DagRunState.RUNNING, DagRunState.QUEUED)
        return session.scalar(select(func.count()).where(DagRun.state.in_(states))) or 0


def _parked() -> int:
    with create_session() as session:
        deferred = TaskInstance.state == TaskInstanceState.DEFERRED
        return session.scalar(select(func.count()).where(deferred)) or 0


def main() -> None:
    file, how, what, *numbers = sys.argv[1:]
    rig = Rig(file, how)
    if what == "waiting":
        releases, loops = map(int, numbers)
        print(json.dumps(rig.waiting(releases, loops)))
        return
    rig.together(1)  # finds nothing loaded
    for number in numbers:
        print(json.dumps(rig.together(int(number))), flush=True)


if __name__ == "__main__":
    main()
