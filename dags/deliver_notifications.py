"""Delivers messages that a receiver did not take at once: again and again for a day, more and more seldom.

Whoever writes a message also delivers it, so this DAG runs only when something is left over. A watcher in the
triggerer notices that.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, AssetWatcher
from slipway_airflow.outbox_trigger import UndeliveredTrigger
from slipway_airflow.step import step

LEFT_OVER = Asset(
    name="undelivered_notifications",
    uri="slipway://notifications/undelivered",
    watchers=[AssetWatcher(name="outbox", trigger=UndeliveredTrigger())],
)


@step
def deliver() -> None:
    """Tries every message that is due, once. What fails is due again later, and fails nothing here."""
    from slipway_airflow.notifications import deliver_due

    from serving import composition
    from serving.control import wiring
    from serving.control.notifications import outbox_of

    deliver_due(outbox_of(composition.wire()), at=wiring.now())


with DAG(
    dag_id="deliver_notifications",
    dag_display_name="Deliver notifications",
    description="Messages that a receiver did not take at once",
    doc_md=__doc__,
    schedule=[LEFT_OVER],
    max_active_runs=1,
    default_args={"owner": "slipway", "execution_timeout": timedelta(minutes=10)},
    tags=["slipway", "notifications"],
):
    deliver()
