"""Who or what asked for a release: read from the DAG run, its form, and the events that led to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serving.control import reasons
from serving.control.releases import Cause, Request

if TYPE_CHECKING:
    from airflow.sdk import Context

    from model_store.release_spec import ReleaseSpec


def request_of(context: Context, spec: ReleaseSpec) -> Request:
    """What the run's form says, and why there is a run."""
    run, params = context["dag_run"], context["params"]
    cause = cause_of(kind_of(run))
    return Request(
        dag_id=run.dag_id,
        run_id=run.run_id,
        at=run.run_after,
        version=str(params.get("version") or spec.source.alias),
        # Airflow's own form checks no characters: cleaned here, everybody reads the same words.
        reason=reasons.cleaned(params.get("reason")) or _what_happened(context, cause),
        by=asked_by(run),
        dry_run=bool(params.get("dry_run")),
        cause=cause,
    )


def asked_by(run: Any) -> str:
    """The person who triggered the run, else what kind of run Airflow made by itself."""
    return run.triggering_user_name or f"airflow ({kind_of(run)})"


def kind_of(run: Any) -> str:
    """The run's type in Airflow's words, such as `asset_triggered`."""
    # A task gets the SDK's enum, whose str() is its Python name; elsewhere it is a plain string.
    return str(getattr(run.run_type, "value", run.run_type))


def cause_of(run_type: str) -> Cause:
    """Why there is a run of this kind of Airflow's. `registry_reconcile` triggers by an operator."""
    by_type = {
        "scheduled": Cause.SCHEDULE,
        "backfill": Cause.SCHEDULE,
        "asset_triggered": Cause.EVENT,
        "operator_triggered": Cause.RECONCILER,
    }
    return by_type.get(run_type, Cause.PERSON)


def _what_happened(context: Context, cause: Cause) -> str:
    """The newest event that led to this run, in words. What counts is what the registry says now."""
    if not cause.is_automatic:
        return ""
    events = [event for of_asset in _asset_events(context).values() for event in of_asset]
    if not events:
        return ""
    said = events[-1].extra
    return f"{said.get('event', 'an event')} in the registry: version {said.get('version', 'unknown')}"


def _asset_events(context: Context) -> Any:
    return context.get("triggering_asset_events") or {}
