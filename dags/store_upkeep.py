"""Removes from the store what nothing needs any more, every night, and ends pods of builds that are over.

What serves, is warm or is on its way stays, and of each model the versions promoted last, so that there is
something to go back to. How many and for how long: `retention` in `<SLIPWAY_HOME>/config.json`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk import DAG
from slipway_airflow.step import step

RELEASES = Path(__file__).parent / "releases"


@step
def tidy() -> dict[str, int]:
    """Forgets bundles, artifacts and memos. Says how many bundles and bytes that were."""
    from serving import composition
    from serving.control import retention, wiring

    done = retention.tidy(composition.wire(), now=wiring.now())
    return {"bundles": len(done.bundles), "bytes": done.size_bytes}


@step
def end_orphans() -> list[str]:
    """Ends pods of builds whose release is over: of runs that were deleted while a stage was under way."""
    from slipway_airflow.final_steps import end_orphaned_pods

    return end_orphaned_pods(RELEASES)


with DAG(
    dag_id="store_upkeep",
    dag_display_name="Tidy the store",
    description="Forgets bundles that nobody will go back to",
    doc_md=__doc__,
    schedule="17 3 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={
        "owner": "slipway",
        "retries": 1,
        "retry_delay": timedelta(minutes=5),
        "execution_timeout": timedelta(minutes=30),
    },
    tags=["slipway", "store"],
):
    tidy()
    end_orphans()
