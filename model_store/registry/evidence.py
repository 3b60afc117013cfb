"""Why a version was released or refused, as an MLflow run that anyone can open."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from model_store.registry.artifacts import artifact_path, upload
from model_store.registry.rest import RegistryRefused, Rest
from model_store.types import ModelRef

RELEASE_TAG = "slipway.release"
# MLflow's limits (mlflow.utils.validation): items of one runs/log-batch, and a parameter's length.
_BATCH = 100
_MAX_PARAM_CHARACTERS = 6000
_NOT_IN_KEYS = re.compile(r"[^\w\-. :/]")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a release leaves behind. `artifacts`: by path in the run, a local file or folder.

    A metric that is NaN or infinite is left out: MLflow stores no such numbers.
    """

    release_id: str
    status: Literal["FINISHED", "FAILED", "KILLED"]
    started_at: datetime
    ended_at: datetime
    description: str = ""
    params: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvidenceRun:
    """Where the evidence is."""

    run_id: str
    url: str


def log_evidence(rest: Rest, ref: ModelRef, evidence: Evidence) -> EvidenceRun:
    """Write the run, or write over the one this release already has. Same evidence twice, one run."""
    experiment = _experiment(rest, f"slipway/{ref.name}")
    run = _run_of(rest, experiment, evidence.release_id) or _new_run(rest, experiment, ref, evidence)
    run_id = str(run["info"]["run_id"])
    _log_values(rest, run, evidence)
    root = artifact_path(run["info"]["artifact_uri"])
    for path, source in evidence.artifacts.items():
        upload(rest, source, f"{root}/{path}")
    # Last, so that a run that is not RUNNING any more is complete.
    rest.post("/runs/update", run_id=run_id, status=evidence.status, end_time=_ms(evidence.ended_at))
    return EvidenceRun(run_id, f"{rest.page_url}/#/experiments/{experiment}/runs/{run_id}")


def _experiment(rest: Rest, name: str) -> str:
    try:
        return str(rest.post("/experiments/create", name=name)["experiment_id"])
    except RegistryRefused as refused:
        if refused.code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = rest.get("/experiments/get-by-name", experiment_name=name)["experiment"]
    if found.get("lifecycle_stage") == "deleted":
        rest.post("/experiments/restore", experiment_id=found["experiment_id"])
    return str(found["experiment_id"])


def _run_of(rest: Rest, experiment: str, release_id: str) -> dict[str, Any] | None:
    wanted = f"tags.`{RELEASE_TAG}` = '{release_id}'"
    runs = rest.post("/runs/search", experiment_ids=[experiment], filter=wanted, max_results=1).get("runs")
    return runs[0] if runs else None


def _new_run(rest: Rest, experiment: str, ref: ModelRef, evidence: Evidence) -> dict[str, Any]:
    tags = {RELEASE_TAG: evidence.release_id, "slipway.model": ref.name, "slipway.version": str(ref.version)}
    created: dict[str, Any] = rest.post(
        "/runs/create",
        experiment_id=experiment,
        run_name=evidence.release_id,
        start_time=_ms(evidence.started_at),
        tags=_pairs(tags),
    )
    return dict(created["run"])


def _log_values(rest: Rest, run: dict[str, Any], evidence: Evidence) -> None:
    # MLflow's parameters never change: a second run of the same task may only add what is missing.
    known = {param["key"] for param in run.get("data", {}).get("params", [])}
    params = {_key(name): str(value)[:_MAX_PARAM_CHARACTERS] for name, value in evidence.params.items()}
    at = _ms(evidence.ended_at)
    metrics = [
        {"key": _key(name), "value": value, "timestamp": at, "step": 0}
        for name, value in evidence.metrics.items()
        if math.isfinite(value)
    ]
    tags = {**evidence.tags, "mlflow.note.content": evidence.description}
    run_id = run["info"]["run_id"]
    for field_name, entries in (
        ("params", _pairs({name: value for name, value in params.items() if name not in known})),
        ("metrics", metrics),
        ("tags", _pairs(tags)),
    ):
        for start in range(0, len(entries), _BATCH):
            rest.post("/runs/log-batch", run_id=run_id, **{field_name: entries[start : start + _BATCH]})


def _pairs(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _key(name: str) -> str:
    """MLflow takes letters, digits and `_-. :/` in names."""
    return _NOT_IN_KEYS.sub("_", name)[:250]


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)
