"""Where MLflow's webhooks may go: to this installation's Airflow, and nowhere else.

MLflow's test of a webhook fetches any address that anybody names, and answers with what it got: so what
listens on loopback would be everybody's who reaches MLflow. Its own check knows public addresses only.
"""

from __future__ import annotations

from mlflow.exceptions import MlflowException
from mlflow.store.model_registry import sqlalchemy_store
from mlflow.webhooks import delivery

# The one address, for the process of MLflow.
VARIABLE = "SLIPWAY_MLFLOW_WEBHOOK"
# Where MLflow 3.17 asks: when one is made or changed, and again before each delivery.
_ASKED_IN = (sqlalchemy_store, delivery)
_ASKED = "_validate_webhook_url"


def allow_only(allowed: str) -> None:
    """From now on. Raises AttributeError where MLflow asks elsewhere: better no MLflow than an open one."""

    def require(url: object) -> None:
        if url != allowed:
            raise MlflowException.invalid_parameter_value(
                f"Webhooks of this MLflow go to {allowed} alone; {str(url)[:200]!r} is another address"
            )

    for module in _ASKED_IN:
        getattr(module, _ASKED)
        setattr(module, _ASKED, require)
