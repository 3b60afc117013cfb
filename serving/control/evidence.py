"""What a release leaves behind, as an MLflow run: what was measured, decided and seen, with plots.

Written when a release ends, and written over where a promoted version is taken back within its watch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from model_store.errors import SlipwayError
from model_store.registry import Evidence, EvidenceRun
from model_store.stages.base import Gated
from model_store.steps import load_result, name_of
from model_store.storage.store import bring
from model_store.types import Check
from serving.control.analysis.plot import Point, plot_rollout
from serving.control.build_stages import build_context, docs_name
from serving.control.finalization import ReleaseEnd, VersionStatus
from serving.control.page_url import release_page
from serving.control.queries import outcomes
from serving.control.queries.outcomes import ReleaseOutcome
from serving.control.release_deployment import state_of
from serving.control.releases import Release
from serving.control.rollout.plan import RolloutState
from serving.control.rollout.record import Record
from serving.control.wiring import Services

log = logging.getLogger("slipway.evidence")

PAGE = "slipway.page"
# In MLflow's words.
_RUN_STATUS: dict[VersionStatus, Literal["FINISHED", "KILLED"]] = {
    VersionStatus.PROMOTED: "FINISHED",
    VersionStatus.SUPERSEDED: "KILLED",
}


def write(
    services: Services,
    release: Release,
    ending: ReleaseEnd,
    *,
    gated: Sequence[str],
    bundle_id: str | None,
    at: datetime,
) -> EvidenceRun:
    """Log the evidence and link it from the version. Needs MLflow.

    `gated`: digests of the gates' results, as far as the release came.
    """
    outcome = ReleaseOutcome(
        release.id, ending.status.value, ending.reason, at, bundle_id=bundle_id or "", gated=tuple(gated)
    )
    # Before MLflow, which may be what failed: the page tells how it ended all the same.
    outcomes.save(services.rows, outcome)
    variants: list[Gated] = [load_result(services.store, digest) for digest in gated]
    with _files(services, release, variants) as artifacts:
        found = Evidence(
            release_id=release.id,
            status=_RUN_STATUS.get(ending.status, "FAILED"),
            started_at=release.request.at,
            ended_at=at,
            description=_description(release, ending),
            params=_params(release, bundle_id),
            metrics={**_gate_metrics(variants), **_rollout_metrics(services, release)},
            tags={"slipway.status": ending.status.value, "slipway.reason": ending.reason},
            artifacts=artifacts,
        )
        run = services.registry.log_evidence(release.ref, found)
        _link_back(services, release, run)
    docs = data_docs_url(run) if data_docs(services, release).is_dir() else ""
    linked = replace(outcome, evidence_url=run.url, data_docs_url=docs)
    outcomes.save(services.rows, linked)
    return run


def _link_back(services: Services, release: Release, run: EvidenceRun) -> None:
    """Who looks at the version in MLflow finds its release."""
    page = release_page(services.home, release.id)
    services.registry.set_tags(release.ref, {PAGE: page})
    services.registry.note(release.ref, f"Released by Slipway: [{release.id}]({page}), [evidence]({run.url})")


def data_docs(services: Services, release: Release) -> Path:
    """The folder with what Great Expectations said of this version, whichever worker it said it to."""
    folder = build_context(services, release).docs
    try:
        bring(services.store, docs_name(release), folder)
    except SlipwayError as error:
        # A release does not wait for its docs.
        log.warning("the Data Docs are not here: %s", error)
    return folder


def data_docs_url(run: EvidenceRun) -> str:
    """Where MLflow shows them."""
    return f"{run.url}/artifacts/data_docs/index.html"


def _description(release: Release, ending: ReleaseEnd) -> str:
    asked = f"Asked for by {release.request.by}" + (
        f": {release.request.reason}" if release.request.reason else ""
    )
    return f"**{release.ref}: {ending.status.value.replace('_', ' ')}.** {ending.reason}\n\n{asked}"


def _params(release: Release, bundle_id: str | None) -> dict[str, object]:
    return {
        "version": release.version,
        "bundle": bundle_id or "",
        "spec_digest": release.spec.digest,
        "strategy": release.spec.rollout.strategy,
        "requested_by": release.request.by,
        "dag_run": release.request.run_id,
    }


def _gate_metrics(variants: Sequence[Gated]) -> dict[str, float]:
    """`<variant>/<check>` for every check, and what the profile measured."""
    found: dict[str, float] = {}
    for gated in variants:
        name = name_of(gated["variant"])
        for check in gated["report"]["checks"]:
            found[f"{name}/{check['name']}"] = float(check["observed"])
        for key, value in (gated["profile"] or {}).items():
            found |= _numbers(f"{name}/{key}", value)
    return found


def _numbers(name: str, measured: Any) -> dict[str, float]:
    """MLflow keeps single numbers: an interval becomes two."""
    if isinstance(measured, list | tuple):
        lower, upper = measured
        return {f"{name}_lower": float(lower), f"{name}_upper": float(upper)}
    return {name: float(measured)}


def _rollout_metrics(services: Services, release: Release) -> dict[str, float]:
    """What both arms did, and how many requests the candidate saw: the exposure."""
    record = services.journal.latest_record(release.id) if state_of(services, release) else None
    if record is None:
        return {}
    return {
        "exposure": record.candidate.requests,
        "candidate/errors": record.candidate.errors,
        "candidate/slow": record.candidate.slow,
        "candidate/refused": record.candidate.refused,
        "candidate/malformed": record.candidate.malformed,
        "stable/requests": record.stable.requests,
        "stable/errors": record.stable.errors,
        "stable/slow": record.stable.slow,
        "stable/refused": record.stable.refused,
        "stable/malformed": record.stable.malformed,
    }


@contextmanager
def _files(services: Services, release: Release, variants: Sequence[Gated]) -> Iterator[Mapping[str, Path]]:
    """The artifacts by their path in the run. The files live as long as the context."""
    with TemporaryDirectory(prefix="slipway-evidence-") as folder:
        root = Path(folder)
        found = {
            "spec.json": _json(root / "spec.json", release.spec.model_dump(mode="json")),
            "gates.json": _json(root / "gates.json", variants),
        }
        if variants:
            found["candidates.png"] = plot_candidates(variants, root / "candidates.png")
        if state := state_of(services, release):
            found |= _rollout_files(services, state, root)
        if (docs := data_docs(services, release)).is_dir():
            found["data_docs"] = docs
        yield found


def _rollout_files(services: Services, state: RolloutState, root: Path) -> dict[str, Path]:
    timeline = [asdict(event) for event in services.journal.timeline(state.release_id)]
    found = {"timeline.json": _json(root / "timeline.json", timeline)}
    records = list(services.journal.records(state.release_id))
    if records:
        found["verdicts.jsonl"] = root / "verdicts.jsonl"
        found["verdicts.jsonl"].write_text("".join(json.dumps(each.to_json()) + "\n" for each in records))
        found["rollout.png"] = plot_traffic(state, records, root / "rollout.png")
    return found


def plot_candidates(variants: Sequence[Gated], path: Path) -> Path:
    """Every variant's p50 latency; hatched where a limit was missed."""
    from matplotlib.figure import Figure

    measured = [gated for gated in variants if gated["profile"]]
    figure = Figure(figsize=(6, 0.6 + 0.5 * len(variants)), layout="constrained")
    axes = figure.subplots()
    for place, gated in enumerate(measured):
        passed = all(Check(**check).passed for check in gated["report"]["checks"])
        style: dict[str, Any] = {"color": "#4477aa"} if passed else {"color": "#cc6677", "hatch": "//"}
        axes.barh(place, (gated["profile"] or {})["p50_ms"], **style)
    axes.set_yticks(range(len(measured)), [name_of(gated["variant"]) for gated in measured])
    axes.invert_yaxis()
    axes.set_xlabel("p50 of one row, ms (hatched: missed a limit)")
    figure.savefig(path, dpi=100)
    return path


def plot_traffic(state: RolloutState, records: Sequence[Record], path: Path) -> Path:
    """Both arms' failure rates with their confidence sequences, and the candidate's share, over time."""
    points = [
        Point(
            seconds=(record.at - records[0].at).total_seconds(),
            step=record.place,
            share=record.share,
            stable=record.stable,
            candidate=record.candidate,
        )
        for record in records
    ]
    return plot_rollout(points, state.plan.policy, path, title=f"{state.release_id}: {state.phase}")


def _json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, indent=1, default=str) + "\n")
    return path
