"""Back to an earlier version, because an alert or a person asks for it.

The controller takes traffic back, at once or as soon as the version's pods answer; it has done so already
where the page, an alert or the command line asked it. This run is for the record: alias, tags, evidence.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import DAG, get_current_context
from slipway_airflow import assets, forms
from slipway_airflow.notifications import DeliverNotifications
from slipway_airflow.operators import ReturnTraffic
from slipway_airflow.step import step

if TYPE_CHECKING:
    from model_store.steps import StepResult

RELEASES = Path(__file__).parent / "releases"
URGENT = 1000


@step(outlets=[assets.ROLLED_BACK])
def book(rollback: str) -> StepResult:
    """Moves the alias `champion` back, tags both versions, and records why."""
    from slipway_airflow import final_steps

    return final_steps.record_rollback(get_current_context(), rollback)


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
    returned = ReturnTraffic(
        task_id="return_traffic",
        on_success_callback=DeliverNotifications(),
        on_failure_callback=DeliverNotifications(),
    )
    book(returned.output)
