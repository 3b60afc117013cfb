"""One release, put together: its plan and verdict, what was tried, its steps, where more is to be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import orjson

from model_store.errors import SlipwayError
from model_store.stages.base import Gated
from model_store.steps import load_result
from serving.control import bundle_comparison
from serving.control.bundle_comparison import BundleComparison
from serving.control.queries import activity
from serving.control.queries.candidates import candidate_rows
from serving.control.queries.progress import end_of
from serving.control.queries.runs import RunSnapshot
from serving.control.queries.snapshots import ReleaseEntry
from serving.control.queries.steps import step_rows
from serving.control.queries.views import (
    CandidateRow,
    HistoryEvent,
    Link,
    PendingApproval,
    ReleaseRow,
    ReleaseView,
    RuleRow,
    VerdictNow,
)
from serving.control.wiring import Services
from serving.ledger.rows import ReleaseRecord
from serving.types import Finding, Outcome, Route, Verdict


def release_view(
    services: Services,
    entry: ReleaseEntry,
    *,
    row: ReleaseRow,
    run: RunSnapshot | None,
    route: Route | None,
    people: Sequence[HistoryEvent],
    approvals: tuple[PendingApproval, ...],
    at: datetime,
) -> ReleaseView:
    """`people`: what was done to this release, by the audit trail; `run`: None when Airflow forgot it."""
    request, rollout = entry.request, entry.rollout
    ended_by = _findings(services, entry)
    is_in_route = row.status.is_under_way and rollout is not None and route is not None
    return ReleaseView(
        row=row,
        holds=rollout.holds if rollout else (),
        strategy=rollout.strategy if rollout else "",
        split_stable=route.split.stable if is_in_route and route else 0.0,
        split_candidate=route.split.candidate if is_in_route and route else 0.0,
        verdict=_verdict(services, entry, ended_by),
        ending=end_of(rollout, ended_by) if rollout else None,
        candidates=_candidates(services, entry, run),
        comparison=_comparison(services, entry),
        steps=step_rows(run, dag_id=request.dag_id, run_id=request.run_id, at=at) if run and request else (),
        moments=_moments(entry, people),
        links=tuple(_links(services, entry)),
        approvals=approvals,
        generation=rollout.generation if rollout else None,
        airflow_state=run.state if run else "",
    )


def _findings(services: Services, entry: ReleaseEntry) -> tuple[Finding, ...]:
    """Those that ended the rollout; none if it goes on, ended well or was ended by a person."""
    if entry.rollout is None:
        return ()
    return services.journal.load(entry.id).findings


def _verdict(services: Services, entry: ReleaseEntry, ended_by: tuple[Finding, ...]) -> VerdictNow | None:
    """What ended the rollout, if a verdict did; else the controller's newest one."""
    if entry.rollout is None:
        return None
    record = services.journal.latest_record(entry.id)
    exposure = record.candidate.requests if record else None
    if ended_by:
        return _shown(Verdict.of(ended_by, at=entry.rollout.changed_at), exposure)
    return _shown(record.verdict, exposure) if record else None


def _shown(verdict: Verdict, exposure: int | None) -> VerdictNow:
    worst_first = sorted(verdict.findings, key=lambda finding: -finding.outcome)
    return VerdictNow(_word(verdict.outcome), verdict.at, tuple(map(_rule, worst_first)), exposure)


def _rule(finding: Finding) -> RuleRow:
    return RuleRow(finding.rule, _word(finding.outcome), finding.reason, finding.source)


def _word(outcome: Outcome) -> str:
    return outcome.name.lower()


def _candidates(services: Services, entry: ReleaseEntry, run: RunSnapshot | None) -> tuple[CandidateRow, ...]:
    """From what the release left behind, or from its run while it is under way."""
    digests = entry.outcome.gated if entry.outcome else run.gated if run else ()
    bundle = entry.outcome.bundle_id if entry.outcome else run.bundle_id if run else ""
    return candidate_rows(
        _gated(services, digests), runtime=_runtime(services, entry), chosen=_precision(services, bundle)
    )


def _gated(services: Services, digests: Iterable[str]) -> list[Gated]:
    """Results that the store has dropped since are left out."""
    found: list[Gated] = []
    for digest in digests:
        try:
            found.append(load_result(services.store, digest))
        except (SlipwayError, OSError, ValueError):
            continue
    return found


def _precision(services: Services, bundle_id: str) -> str | None:
    if not bundle_id:
        return None
    try:
        manifest: dict[str, Any] = orjson.loads(services.store.manifest(bundle_id, here_first=True))
        return str(manifest["precision"])
    except (SlipwayError, OSError, ValueError, KeyError):
        return None


def _comparison(services: Services, entry: ReleaseEntry) -> BundleComparison | None:
    """Of the bundle that was published last."""
    try:
        built = _saved(services, entry)["bundles"]
        return (
            bundle_comparison.from_json(built[-1]["compared"])
            if built and built[-1].get("compared")
            else None
        )
    except (SlipwayError, ValueError, KeyError, TypeError):
        return None


def _saved(services: Services, entry: ReleaseEntry) -> Any:
    return services.rows.get(ReleaseRecord, entry.id).document


def _runtime(services: Services, entry: ReleaseEntry) -> str:
    try:
        return str(_saved(services, entry)["spec"]["serving"]["runtime"])
    except (SlipwayError, ValueError, KeyError, TypeError):
        return "onnxruntime"


def _moments(entry: ReleaseEntry, people: Sequence[HistoryEvent]) -> tuple[HistoryEvent, ...]:
    """The newest first. What people did is told by the audit trail, the rest by the journal."""
    rollout = activity.of_rollout(entry.rollout) if entry.rollout else ()
    built = activity.of_bundles(entry)
    return tuple(sorted([*rollout, *built, *people], key=lambda moment: moment.at, reverse=True))


def _links(services: Services, entry: ReleaseEntry) -> Iterable[Link]:
    if request := entry.request:
        run = f"/dags/{quote(request.dag_id, safe='')}/runs/{quote(request.run_id, safe='')}"
        yield Link("DAG run and logs", run, is_airflow=True)
    model, mlflow = quote(entry.model, safe=""), services.home.mlflow_url
    yield Link("Model version in MLflow", f"{mlflow}/#/models/{model}/versions/{entry.version}")
    if outcome := entry.outcome:
        if outcome.evidence_url:
            yield Link("Evidence in MLflow", outcome.evidence_url)
        if outcome.data_docs_url:
            yield Link("Data Docs", outcome.data_docs_url)
