"""Reads what a release left behind: MLflow (tags, runs), the store, the journal, Airflow, the traffic log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import httpx

from demo.facts import Exposure, Happening, Release, Rollback, Variant
from demo.perform import Played
from demo.traffic_log import TrafficLog
from model_store.errors import Permanent
from model_store.records import read_report
from model_store.registry import Registry
from model_store.storage.store import open_store
from model_store.types import ModelRef
from serving import composition
from serving.control.rollout.journal import Journal, UnknownRelease
from serving.control.rollout.plan import Phase
from serving.control.rollout.record import Record
from serving.home import Home
from serving.local_stack.airflow_api import TaskRun, airflow_api

Json = dict[str, Any]


def read_releases(home: Home, model: str, played: Sequence[Played], log: TrafficLog) -> list[Release]:
    """One `Release` for each act. Raises `Permanent` naming the evidence that is missing."""
    with airflow_api(home) as api:
        tasks = [api.tasks(one.run) for one in played]
    with MlflowRuns(home) as runs:
        return [_release(home, model, one, ran, log, runs) for one, ran in zip(played, tasks, strict=True)]


def _release(
    home: Home, model: str, played: Played, tasks: list[TaskRun], log: TrafficLog, runs: MlflowRuns
) -> Release:
    version = Registry(home.mlflow_url).describe(ModelRef(model, played.act.version))
    release_id, bundle = _tag(version.tags, "slipway.release"), version.tags.get("slipway.bundle")
    happenings, records, was_rolled_back = _rollout(composition.journal_of(home), release_id)
    return Release(
        version=played.act.version,
        story=played.act.story,
        asked_by=played.asked_by,
        release_id=release_id,
        ending=_tag(version.tags, "slipway.status"),
        reason=version.tags.get("slipway.reason", ""),
        seconds=played.seconds,
        trained_accuracy=runs.metric(version.run_id, "accuracy"),
        variants=_variants(runs.artifact(_run_id(version.tags), "gates.json")),
        chosen=_precision(home, bundle) if bundle else None,
        bundle=bundle,
        step_seconds=step_seconds(tasks),
        happenings=happenings,
        exposure=Exposure(records[-1].candidate.requests, records[-1].candidate.errors) if records else None,
        rollback=rollback_of(happenings, records, log, played.act.version) if was_rolled_back else None,
    )


def _tag(tags: dict[str, str], key: str) -> str:
    if key not in tags:
        raise Permanent(
            f"the version has no tag {key!r}", remedy="see the release's task `settle` in Airflow"
        )
    return tags[key]


def _run_id(tags: dict[str, str]) -> str:
    """The evidence run, whose page the tag links to."""
    return _tag(tags, "slipway.evidence").rstrip("/").rpartition("/")[2]


def _rollout(journal: Journal, release_id: str) -> tuple[tuple[Happening, ...], list[Record], bool]:
    """Nothing at all for a release that was blocked before traffic."""
    try:
        state = journal.load(release_id)
    except UnknownRelease:
        return (), [], False
    events = journal.timeline(release_id)
    happenings = tuple(Happening(event.at, event.kind, event.detail) for event in events)
    return happenings, list(journal.records(release_id)), state.phase is Phase.ROLLED_BACK


def _precision(home: Home, bundle: str) -> str:
    return str(json.loads(open_store(home.store).manifest(bundle, here_first=True))["precision"])


def _variants(gates: list[Json]) -> tuple[Variant, ...]:
    return tuple(_variant(one) for one in gates)


def _variant(gated: Json) -> Variant:
    profile = gated["profile"] or {}
    return Variant(
        precision=gated["variant"]["precision"],
        layout=gated["variant"]["layout"],
        report=read_report(gated["report"]),
        before_ms=profile.get("baseline_p50_ms"),
        after_ms=profile.get("p50_ms"),
        ratio=profile.get("latency_ratio"),
        interval=tuple(profile["latency_interval"]) if profile else None,
    )


def rollback_of(
    happenings: Sequence[Happening], records: Sequence[Record], log: TrafficLog, version: int
) -> Rollback:
    """The times of a rollback, from the journal and from what clients saw."""
    clean = [record for record in records if record.candidate.errors == 0]
    has_failed = len(clean) < len(records)
    return Rollback(
        first_error_after=clean[-1].at.timestamp() if clean and has_failed else None,
        weight_zero_at=next(h.at.timestamp() for h in happenings if h.kind == "rolled back"),
        last_answer_at=max((entry.answered_at for entry in log.answered_by(version)), default=None),
    )


def step_seconds(tasks: Sequence[TaskRun]) -> dict[str, float]:
    """Task name (without its group) -> seconds from its first instance's start to its last one's end.

    Tasks that never ran are left out; Airflow dates them too, with no time between start and end.
    """
    spans: dict[str, list[tuple[float, float]]] = {}
    for task in tasks:
        if task.state in ("success", "failed") and task.started_at and task.ended_at:
            span = (_seconds(task.started_at), _seconds(task.ended_at))
            spans.setdefault(task.task_id.rpartition(".")[2], []).append(span)
    return {
        name: max(end for _, end in found) - min(start for start, _ in found) for name, found in spans.items()
    }


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class MlflowRuns:
    """Metrics and artifacts of MLflow runs, over its REST API."""

    def __init__(self, home: Home) -> None:
        self._client = httpx.Client(base_url=home.mlflow_url, timeout=20, trust_env=False)

    def __enter__(self) -> MlflowRuns:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def metric(self, run_id: str, key: str) -> float:
        """Raises `Permanent` when the run has none of this name."""
        for metric in self._run(run_id)["data"].get("metrics", []):
            if metric["key"] == key:
                return float(metric["value"])
        raise Permanent(f"run {run_id} has no metric {key!r}", remedy="see the run in MLflow")

    def artifact(self, run_id: str, path: str) -> Any:
        """A JSON artifact of the run."""
        root = self._run(run_id)["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
        return self._get(f"/api/2.0/mlflow-artifacts/artifacts/{root}/{path}").json()

    def _run(self, run_id: str) -> Json:
        run: Json = self._get("/api/2.0/mlflow/runs/get", run_id=run_id).json()["run"]
        return run

    def _get(self, path: str, **query: str) -> httpx.Response:
        try:
            return self._client.get(path, params=query).raise_for_status()
        except httpx.HTTPError as error:
            raise Permanent(f"MLflow has no {path} ({error})", remedy="see the run in MLflow") from error
