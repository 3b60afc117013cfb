"""Back to an earlier version, because an alert or a person asks for it.

Traffic comes first. To the version that still stands by, that is one weight change; any other version's pods
are started again from its bundle in the store, nothing is built. MLflow is asked only when it is done.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import DAG, get_current_context
from slipway_airflow import assets, forms
from slipway_airflow.notifications import DeliverNotifications
from slipway_airflow.operators import PrepareRollback
from slipway_airflow.step import step

if TYPE_CHECKING:
    from model_store.steps import StepResult

RELEASES = Path(__file__).parent / "releases"
URGENT = 1000


@step(on_success_callback=DeliverNotifications())
def return_traffic() -> StepResult:
    """Fixes which version comes back, and gives it all traffic at once if it still stands by."""
    from slipway_airflow import final_steps

    return final_steps.begin_rollback(get_current_context())


@step
def switch(rollback: str, deployment: str) -> StepResult:
    """Gives all traffic to a version that had to be started again, by one write."""
    from slipway_airflow import final_steps

    return final_steps.switch_traffic(rollback, deployment)


@step(outlets=[assets.ROLLED_BACK])
def book(rollback: str) -> StepResult:
    """Moves the alias `champion` back, tags both versions, and records why."""
    from slipway_airflow import final_steps

    return final_steps.record_rollback(get_current_context(), rollback)


@step
def let_go(rollback: str) -> StepResult:
    """Always runs. Ends the pods nobody needs, and lets the next release begin."""
    from slipway_airflow import final_steps

    return final_steps.finalize_rollback(rollback)


with DAG(
    dag_id="model_rollback",
    dag_display_name="Roll a model back",
    description="Back to the previous or a named version",
    doc_md=__doc__,
    schedule=None,
    max_active_runs=16,
    params=forms.rollback_params(sorted(path.stem for path in RELEASES.glob("*.yaml"))),
    default_args={
        "owner": "slipway",
        "retries": 3,
        "retry_delay": timedelta(seconds=5),
        "execution_timeout": timedelta(minutes=10),
        # More than any task of a release has: users wait for this.
        "priority_weight": URGENT,
        "weight_rule": "absolute",
    },
    tags=["slipway", "rollback"],
):
    rollback = return_traffic().as_setup()
    ready = PrepareRollback(task_id="make_ready", rollback=rollback)
    booked = book(rollback)
    switch(rollback, ready.output) >> booked >> let_go(rollback).as_teardown(setups=rollback)
