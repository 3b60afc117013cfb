"""Whether a DAG run has ended, as tasks and triggers may ask it of Airflow: they have no database."""

from __future__ import annotations

import logging
from http import HTTPStatus

OVER = ("success", "failed")
_log = logging.getLogger(__name__)


def is_over(dag_id: str, run_id: str) -> bool:
    """Whether the run ended, or somebody deleted it. While Airflow does not say, it has not."""
    from airflow.sdk.exceptions import AirflowRuntimeError
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        return RuntimeTaskInstance.get_dagrun_state(dag_id, run_id) in OVER
    except AirflowRuntimeError as error:
        if (error.error.detail or {}).get("status_code") == HTTPStatus.NOT_FOUND:
            return True
        _log.warning("how run %s of %s stands is not known: %s", run_id, dag_id, error)
    except Exception as problem:
        _log.warning("how run %s of %s stands is not known: %r", run_id, dag_id, problem)
    return False
