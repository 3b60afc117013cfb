"""Finds versions that should be on their way to users and are not, and starts their release, exactly once.

A version is missed when the alias of its spec points to it and it neither serves nor was ever tried. So are
rollbacks that were carried out while Airflow was down: the run that records each is started here. A
watcher in the triggerer looks every few seconds, so this DAG runs only when there is something to do.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Asset, AssetWatcher
from slipway_airflow.step import step
from slipway_airflow.triggers import MissedVersionsTrigger

if TYPE_CHECKING:
    from serving.control.rollbacks import RequestedRollback

RELEASES = Path(__file__).parent / "releases"

MISSED_VERSIONS = Asset(
    name="missed_versions",
    uri="slipway://registry/missed-versions",
    watchers=[AssetWatcher(name="registry", trigger=MissedVersionsTrigger(folder=str(RELEASES)))],
)


@step
def find_missed() -> list[dict[str, object]]:
    """Compares the registry's aliases with what serves and was tried, and rollbacks with those recorded."""
    from model_store.release_spec import load_all
    from serving import composition
    from serving.control import reconciliation, specs, wiring

    services = composition.wire()
    found = reconciliation.missed(services, load_all(RELEASES).specs, at=wiring.now())
    back = reconciliation.unrecorded_rollbacks(services, at=wiring.now())
    return [_recording(rollback) for rollback in back] + [
        {
            "trigger_dag_id": specs.dag_id_of(ref.name),
            "trigger_run_id": reconciliation.run_id_of(ref, services.attempts.withdrawn(ref)),
            "reset_dag_run": False,
            "conf": {"version": str(ref.version), "reason": "the registry names it"},
        }
        for ref in found
    ]


def _recording(rollback: RequestedRollback) -> dict[str, object]:
    """The run that tells MLflow of a rollback. One that ended without having done so is run again: with
    another name it would be another rollback."""
    from slipway_airflow import run_states

    asked = rollback.request
    return {
        "trigger_dag_id": "model_rollback",
        "trigger_run_id": asked.run_id,
        "reset_dag_run": run_states.is_over("model_rollback", asked.run_id),
        "conf": {
            "model": asked.model,
            "version": str(rollback.returns),
            "reason": asked.reason,
            "incident": asked.incident,
        },
    }


with DAG(
    dag_id="registry_reconcile",
    dag_display_name="Reconcile with the registry",
    description="Starts the release of versions that the registry names and nobody asked for",
    doc_md=__doc__,
    schedule=[MISSED_VERSIONS],
    max_active_runs=1,
    default_args={
        "owner": "slipway",
        "retries": 3,
        "retry_delay": timedelta(seconds=5),
        "execution_timeout": timedelta(minutes=5),
    },
    tags=["slipway", "registry"],
):
    TriggerDagRunOperator.partial(
        task_id="release",
        # The same version again would be the same run: it exists, so there is nothing to do.
        skip_when_already_exists=True,
        map_index_template="{{ task.trigger_run_id }}",
    ).expand_kwargs(find_missed())
