"""DAGs that show whether Airflow works: a chain of tasks, a task that runs for long, one that is deferred."""

from __future__ import annotations

import time
from datetime import timedelta

from airflow.providers.standard.operators.python import PythonOperator
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG, get_current_context


def say() -> str:
    return "said"


def hear() -> None:
    context = get_current_context()
    assert context["ti"].xcom_pull(task_ids="say") == "said"


def work() -> None:
    time.sleep(get_current_context()["params"]["seconds"])


with DAG("probe_chain", schedule=None, tags=["probe"]):
    PythonOperator(task_id="say", python_callable=say) >> PythonOperator(task_id="hear", python_callable=hear)

with DAG("probe_long", schedule=None, tags=["probe"], params={"seconds": 20}):
    PythonOperator(task_id="work", python_callable=work, retries=2, retry_delay=timedelta(seconds=1))

with DAG("probe_deferred", schedule=None, tags=["probe"]):
    TimeDeltaSensor(task_id="wait", delta=timedelta(seconds=20), deferrable=True)
