"""MLflow's web application with its database made before the first request.

MLflow makes the tables when it first needs them. Requests run in threads, so two first ones at once (somebody
logs a run while `up` registers the webhook) make them twice, and one of the two fails with status 500.
`mlflow server` makes them in the process that we leave out (docs/decisions/0051). uvicorn imports this before
it listens.
"""

from __future__ import annotations

import os

from mlflow.server.fastapi_app import app
from mlflow.server.handlers import initialize_backend_stores

from serving.local_stack import mlflow_webhooks

# One whom nobody tells of one has none.
mlflow_webhooks.allow_only(os.environ.get(mlflow_webhooks.VARIABLE, ""))
initialize_backend_stores(
    os.environ["_MLFLOW_SERVER_FILE_STORE"],
    os.environ["_MLFLOW_SERVER_REGISTRY_STORE"],
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"],
)

__all__ = ["app"]
