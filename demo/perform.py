"""Plays a scenario: asks for each release, shows how it goes, and notes when it began and ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import httpx

from demo.acts import Act
from demo.clients import DagRun, Json, Platform, Registry
from demo.command import slipway
from demo.stage import POLL_SECONDS, Stage
from demo.traffic_log import Tally
from demo.view import ActView, View, name_of, steps_of
from model_store.errors import Permanent

ACT_SECONDS = 600
DAG_SECONDS = 120
# How long the registry's own event may take to start a release before the demo asks for it itself.
REGISTRY_SECONDS = 45
# Traffic goes on so long after the last act: a version that was taken out must stay out.
EPILOGUE_SECONDS = 3.0

BY_COMMAND = "command line"
BY_ALIAS = "alias in MLflow"
BY_DEMO = f"command line, the alias had started nothing in {REGISTRY_SECONDS} s"

_CLOSING = {"promote": ("success",), "settle": ("success", "failed")}


@dataclass(frozen=True, slots=True)
class Played:
    """An act that is over. `asked_by` is what started its DAG run; `seconds` from asking to its ending."""

    act: Act
    run: DagRun
    asked_by: str
    seconds: float


class Performance:
    """`show` is called whenever the view may have changed; `clock` counts seconds."""

    def __init__(
        self,
        stage: Stage,
        platform: Platform,
        registry: Registry,
        view: View,
        show: Callable[[View], None],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._stage, self._view, self._show, self._clock = stage, view, show, clock
        self._platform, self._registry = platform, registry
        self._model = stage.scenario.model
        self._dag_id = f"release_{self._model}"

    def play(self) -> list[Played]:
        """All acts in order, then a moment more of traffic. Raises `Permanent` when one does not end."""
        self._wait_for_dag()
        played = [self._play_act(view) for view in self._view.acts]
        self._view.doing = "a few seconds more of traffic, to see that what was taken out stays out"
        until = self._clock() + EPILOGUE_SECONDS
        while self._clock() < until:
            self._refresh()
        return played

    def _play_act(self, view: ActView) -> Played:
        view.began = self._clock()
        asked_by, run = self._ask(view.act)
        self._view.doing = f"{self._stage.home.airflow_url}/dags/{run.dag_id}/runs/{run.run_id}"
        while not self._is_over(tasks := self._look(run)):
            view.steps = steps_of(tasks) or view.steps
            if self._clock() > view.began + ACT_SECONDS:
                raise Permanent(
                    f"v{view.act.version} has no ending after {ACT_SECONDS} s",
                    remedy=f"See {self._view.doing}",
                )
        view.steps, view.ended = steps_of(tasks), self._clock()
        view.ending = self._registry.tags(self._model, view.act.version).get("slipway.status", "unknown")
        self._refresh()
        return Played(view.act, run, asked_by, view.seconds(self._clock()))

    def _ask(self, act: Act) -> tuple[str, DagRun]:
        if act.asked == "command":
            return BY_COMMAND, self._ask_by_command(act)
        known = {run.run_id for run in self._platform.runs(self._dag_id)}
        self._registry.set_alias(self._model, act.version, "candidate")
        self._view.doing = f"v{act.version} has the alias `candidate` in MLflow: nobody calls Airflow now"
        until = self._clock() + REGISTRY_SECONDS
        while self._clock() < until:
            self._refresh()
            with suppress(httpx.HTTPError):
                for run in self._platform.runs(self._dag_id):
                    if run.run_id not in known:
                        return BY_ALIAS, run
        return BY_DEMO, self._ask_by_command(act)

    def _ask_by_command(self, act: Act) -> DagRun:
        said = slipway("release", self._model, str(act.version), "--reason", act.story)
        return DagRun(said["dag_id"], said["run_id"], said["state"])

    def _look(self, run: DagRun) -> list[Json]:
        """Refresh everything; the run's tasks, or none when a busy Airflow did not answer this time."""
        self._refresh()
        with suppress(httpx.HTTPError):
            self._view.shares = self._platform.shares(self._model) or self._view.shares
        if self._view.shares and not self._stage.has_traffic:
            self._stage.start_traffic()
        try:
            return self._platform.tasks(run)
        except httpx.HTTPError:
            return []

    def _refresh(self) -> None:
        self._stage.require_traffic()
        self._view.tally = (self._view.tally or Tally(self._stage.traffic_log)).update()
        self._view.now = self._clock()
        self._show(self._view)
        time.sleep(POLL_SECONDS)

    def _is_over(self, tasks: list[Json]) -> bool:
        """A promoted version is watched for minutes more; one that failed is over when it is settled."""
        return any(task["state"] in _CLOSING.get(name_of(task), ()) for task in tasks)

    def _wait_for_dag(self) -> None:
        until = self._clock() + DAG_SECONDS
        while self._dag_id not in self._platform.dag_ids():
            self._view.doing = f"Airflow reads the DAG {self._dag_id}"
            self._refresh()
            if self._clock() > until:
                problems = "; ".join(f"{file}: {why}" for file, why in self._platform.import_errors().items())
                raise Permanent(
                    f"Airflow has no DAG {self._dag_id}. {problems}".strip(),
                    remedy=f"Read {self._stage.home.logs / 'airflow-dag-processor.log'}.",
                )
