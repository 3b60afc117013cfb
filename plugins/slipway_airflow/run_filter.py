"""Spares Airflow's scheduler the looks at releases in which nothing happened.

Airflow examines every run under way in each of its loops, 20 of them at most, task by task. A release
waits most of its life: for a worker, a verdict, people, the end of its watch. Whether anything ended, was
cleared or is to be tried again is one query for all of them; only those are examined, and one of the others
in each loop, for whatever this does not know of. Runs of other DAGs are examined as ever, a rollback's too.

It narrows one query of Airflow's own (docs/decisions/0095), known to be right for `KNOWN`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

# Of Airflow: whoever raises it reads `DagRun.get_running_dag_runs_to_examine` and `update_state` again.
KNOWN = "3.3.2"
RELEASES = r"release\_%"
# A run in which nothing is seen to happen is examined so often anyway, one run in each loop.
ANYWAY_SECONDS = 60.0

ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
# By the clock: only examining finds out that their delay is over.
TRIED_AGAIN = frozenset({"up_for_retry", "up_for_reschedule"})


class TaskSummary(NamedTuple):
    """What in a run's tasks gives the scheduler something to decide.

    `ended`: (state, how many, the latest change); `unscheduled`: how many have no state yet.
    """

    ended: frozenset[tuple[str, int, Any]] = frozenset()
    unscheduled: int = 0
    is_retrying: bool = False

    def needs_examination(self, before: TaskSummary | None) -> bool:
        """Scheduling and running a task changes nothing for the others: only its end does."""
        if before is None or self.is_retrying:
            return True
        return self.ended != before.ended or self.unscheduled > before.unscheduled


class RunFilter:
    """What this scheduler saw of its runs in its last loop, and which it has yet to examine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[int, TaskSummary] = {}
        self._examined_at: dict[int, float] = {}
        self._due: set[int] = set()

    def spared(self, traces: Mapping[int, TaskSummary]) -> set[int]:
        """The runs that need no look now, of those under way."""
        changed = {run for run, trace in traces.items() if trace.needs_examination(self._last.get(run))}
        self._due = (self._due & traces.keys()) | changed
        self._last = dict(traces)
        self._examined_at = {run: self._examined_at.get(run, 0.0) for run in traces}
        return set(traces.keys() - self._due - self._longest_ago())

    def note(self, examined: Iterable[int]) -> None:
        """These are examined now. What happens meanwhile shows in their next trace."""
        for run in examined:
            self._due.discard(run)
            self._examined_at[run] = self._clock()

    def _longest_ago(self) -> set[int]:
        quiet = self._examined_at.keys() - self._due
        run = min(quiet, key=lambda run: self._examined_at[run], default=None)
        is_over = run is not None and self._clock() - self._examined_at[run] >= ANYWAY_SECONDS
        return {run} if run is not None and is_over else set()


def summaries_of(session: Session) -> dict[int, TaskSummary]:
    """Every release under way that was examined before, by the id of its run."""
    states: dict[int, list[tuple[str | None, int, Any]]] = {}
    for run, state, count, latest in session.execute(_states()):
        states.setdefault(run, []).append((state, count, latest))
    return {run: _summary(found) for run, found in states.items()}


@cache
def _states() -> Any:
    """Made once: making it costs more than asking it."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import and_, func, select

    of_run = and_(TaskInstance.dag_id == DagRun.dag_id, TaskInstance.run_id == DagRun.run_id)
    return (
        select(DagRun.id, TaskInstance.state, func.count(), func.max(TaskInstance.updated_at))
        .join(TaskInstance, of_run)
        # Airflow empties the decision of a run in which something was cleared.
        .where(DagRun.state == "running", DagRun.last_scheduling_decision.is_not(None))
        .where(DagRun.dag_id.like(RELEASES, escape="\\"))
        .group_by(DagRun.id, TaskInstance.state)
    )


def _summary(found: list[tuple[str | None, int, Any]]) -> TaskSummary:
    return TaskSummary(
        ended=frozenset((state, count, latest) for state, count, latest in found if state in ENDED),
        unscheduled=sum(count for state, count, _ in found if state is None),
        is_retrying=any(state in TRIED_AGAIN for state, _, _ in found),
    )


class FilteredSession:
    """A session whose queries for runs leave some out. Everything else is the session's."""

    def __init__(self, session: Session, left_out: set[int]) -> None:
        self._session = session
        self._left_out = left_out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def scalars(self, query: Any) -> Any:
        from airflow.models.dagrun import DagRun

        return self._session.scalars(query.where(DagRun.id.not_in(self._left_out)))


def examine_only_changed_runs(looks: RunFilter | None = None) -> bool:
    """Narrow the scheduler's query in this process. False, and nothing done, for an Airflow not known."""
    from airflow import __version__
    from airflow.models.dagrun import DagRun

    if __version__ != KNOWN:
        log.warning("Airflow %s is not %s: every run is examined in every loop", __version__, KNOWN)
        return False
    every = DagRun.get_running_dag_runs_to_examine
    looks = looks or RunFilter()

    def some(cls: type[DagRun], session: Session) -> list[DagRun]:
        traces = summaries_of(session)
        left_out = looks.spared(traces)
        narrowed: Any = FilteredSession(session, left_out) if left_out else session
        examined = list(every(session=narrowed))
        looks.note(run.id for run in examined)
        return examined

    DagRun.get_running_dag_runs_to_examine = classmethod(some)  # type: ignore[assignment,method-assign]
    return True
