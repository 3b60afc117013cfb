"""Plays a scenario: asks for each release, shows how it goes, and notes when it began and ended."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from demo.acts import Act
from demo.stage import POLL_SECONDS, Stage
from demo.traffic_log import Tally
from demo.view import ActView, View, steps_of, weights
from model_store.errors import Permanent, Retryable
from model_store.installation import name_here
from model_store.registry import Registry
from model_store.types import ModelRef
from serving import composition
from serving.gateway.router.base import UnknownService
from serving.local_stack.airflow_api import AirflowApi, DagRun, TaskRun, airflow_api

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
        self, stage: Stage, view: View, show: Callable[[View], None], *, clock: Callable[[], float]
    ) -> None:
        self._stage, self._view, self._show, self._clock = stage, view, show, clock
        self._home = stage.home
        self._router = composition.router_of(stage.home)
        self._registry = Registry(stage.home.mlflow_url)
        self._dag_id = f"release_{stage.scenario.model}"

    def play(self) -> list[Played]:
        """All acts in order, then a moment more of traffic. Raises `Permanent` when one does not end."""
        with airflow_api(self._home) as api:
            self._wait_for_dag(api)
            played = [self._play_act(api, view) for view in self._view.acts]
        self._view.doing = "a few seconds more of traffic, to see that what was taken out stays out"
        until = self._clock() + EPILOGUE_SECONDS
        while self._clock() < until:
            self._refresh()
        return played

    def _play_act(self, api: AirflowApi, view: ActView) -> Played:
        view.began = self._clock()
        asked_by, run = self._ask(api, view.act)
        self._view.doing = f"{self._home.airflow_url}/dags/{run.dag_id}/runs/{run.run_id}"
        while not self._is_over(tasks := self._look(api, run)):
            view.steps = steps_of(tasks) or view.steps
            if self._clock() > view.began + ACT_SECONDS:
                raise Permanent(
                    f"v{view.act.version} has no ending after {ACT_SECONDS} s",
                    remedy=f"See {self._view.doing}",
                )
        view.steps, view.ended = steps_of(tasks), self._clock()
        view.ending = self._status(view.act.version)
        self._refresh()
        return Played(view.act, run, asked_by, view.seconds(self._clock()))

    def _ask(self, api: AirflowApi, act: Act) -> tuple[str, DagRun]:
        if act.asked == "command":
            return BY_COMMAND, self._ask_by_command(act)
        known = {run.run_id for run in api.latest_runs(self._dag_id)}
        self._registry.set_alias(ModelRef(self._stage.scenario.model, act.version), "candidate")
        self._view.doing = f"v{act.version} has the alias `candidate` in MLflow: nobody calls Airflow now"
        until = self._clock() + REGISTRY_SECONDS
        while self._clock() < until:
            self._refresh()
            with suppress(Retryable):
                for run in api.latest_runs(self._dag_id):
                    if run.run_id not in known:
                        return BY_ALIAS, run
        return BY_DEMO, self._ask_by_command(act)

    def _ask_by_command(self, act: Act) -> DagRun:
        version = str(act.version)
        command = ["release", self._stage.scenario.model, version, "--reason", act.story, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", name_here("serving.cli"), *command],
            cwd=self._home.run,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Permanent(
                f"`slipway {' '.join(command)}` failed: {done.stdout}{done.stderr}".strip(),
                remedy=f"Read {self._home.logs}.",
            )
        answer = json.loads(done.stdout)
        return DagRun(answer["dag_id"], answer["run_id"], answer["state"])

    def _look(self, api: AirflowApi, run: DagRun) -> list[TaskRun]:
        """Refresh everything; the run's tasks, or none when a busy Airflow did not answer this time."""
        self._refresh()
        if weights(self._view.route) and not self._stage.has_traffic:
            self._stage.start_traffic()
        try:
            return api.tasks(run)
        except Retryable:
            return []

    def _refresh(self) -> None:
        self._stage.require_traffic()
        with suppress(UnknownService):
            self._view.route = self._router.read(self._stage.scenario.model)
        self._view.tally = (self._view.tally or Tally(self._stage.traffic_log)).update()
        self._view.now = self._clock()
        self._show(self._view)
        time.sleep(POLL_SECONDS)

    def _is_over(self, tasks: list[TaskRun]) -> bool:
        """A promoted version is watched for minutes more; one that failed is over when it is settled."""
        return any(task.state in _CLOSING.get(task.task_id.rpartition(".")[2], ()) for task in tasks)

    def _status(self, version: int) -> str:
        tags = self._registry.describe(ModelRef(self._stage.scenario.model, version)).tags
        return tags.get("slipway.status", "unknown")

    def _wait_for_dag(self, api: AirflowApi) -> None:
        until = self._clock() + DAG_SECONDS
        while self._dag_id not in api.dag_ids():
            self._view.doing = f"Airflow reads the DAG {self._dag_id}"
            self._refresh()
            if self._clock() > until:
                problems = "; ".join(f"{file}: {why}" for file, why in api.import_errors().items())
                raise Permanent(
                    f"Airflow has no DAG {self._dag_id}. {problems}".strip(),
                    remedy=f"Read {self._home.logs / 'airflow-dag-processor.log'}.",
                )
