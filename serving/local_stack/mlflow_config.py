"""MLflow's tracking server and registry as one process: SQLite, artifacts served by the server itself.

`mlflow server` would stay in memory as the parent of the web server it starts, importing everything twice
(and, when killed, leave that web server on the port). The web server is therefore started directly, with the
variables that `mlflow.server._run_server` of MLflow 3.17 sets for it (a test checks their names).
"""

from __future__ import annotations

import sys
from pathlib import Path

from serving.credentials import Credentials
from serving.home import Home
from serving.inbound.registration import ENDPOINT


def database(home: Home) -> Path:
    return home.mlflow / "mlflow.db"


def command(home: Home) -> tuple[str, ...]:
    """One worker: requests run in its threads, and SQLite has one writer anyway."""
    return (
        *(sys.executable, "-m", "uvicorn", f"{__package__}.mlflow_app:app"),
        *("--host", "127.0.0.1", "--port", str(home.ports.mlflow)),
        *("--workers", "1", "--no-access-log", "--timeout-graceful-shutdown", "5"),
    )


def environment(home: Home, credentials: Credentials) -> dict[str, str]:
    return {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{database(home)}",
        "_MLFLOW_SERVER_REGISTRY_STORE": f"sqlite:///{database(home)}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(home.mlflow / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": credentials.mlflow_secret_key,
        # Scoring jobs of the GenAI features: several more processes that nobody here needs.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # The receiver is Airflow on this machine: MLflow by default only calls public https addresses.
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        # And no other (`serving.local_stack.mlflow_webhooks`).
        "SLIPWAY_MLFLOW_WEBHOOK": home.airflow_url + ENDPOINT,
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": credentials.webhook_fernet_key,
        # A webhook that was registered or got a new secret counts after so long (default 60 s).
        "MLFLOW_WEBHOOK_CACHE_TTL": "5",
    }


def make_folders(home: Home) -> None:
    (home.mlflow / "artifacts").mkdir(parents=True, exist_ok=True)
