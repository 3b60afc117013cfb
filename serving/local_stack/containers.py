"""How containers of docker-compose.yaml begin: `python -m serving.local_stack.containers ...`

    secrets          make what is secret, once, and give each service its own
    buckets          make the buckets of the object store
    run COMMAND ...  become COMMAND, with the environment that `secrets` gave this service

Each service mounts a volume of its own at /run/slipway, and no other's; `env` in it is the secret part of its
environment. So nothing secret is in `docker inspect`, in a log, or in the user's folder.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from model_store.durable import write_file
from model_store.errors import Permanent, SlipwayError
from serving.credentials import credentials_of, write_secret
from serving.home import Home
from serving.inbound.secrets import secrets_of
from serving.local_stack.components import common_environment
from serving.local_stack.prepare import prepare
from serving.monitoring.config import Options, write
from serving.monitoring.incidents import alert_token

# Where `secrets` writes, and where a service finds its own part.
ALL, OWN = Path("/run/slipway-secrets"), Path("/run/slipway")
BUCKETS = ("slipway", "mlflow")

# Of the services' names in docker-compose.yaml, which are their names in DNS.
_POSTGRES, _REDIS, _STORE = "postgres:5432", "redis:6379", "http://store:8333"
_DATABASES = ("airflow", "mlflow", "mlflow_auth", "ledger")
_VALUES = (
    *("postgres", *_DATABASES, "redis", "s3_writer", "s3_reader", "mlflow_admin"),
    *("controller", "ads", "launcher"),
)

Values = dict[str, str]
Files = dict[str, str]


def make(home: Home, folder: Path) -> None:
    """Everything that is secret, and what is written of it for each service. Safe to repeat."""
    prepare(home, ())
    values = _made(folder / "values.json")
    for service, files in _services(home, values).items():
        for name, text in files.items():
            path = folder / service / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Another user than ours reads it in another image, and nobody else has the folder.
            write_file(path, text.encode())
            path.chmod(0o644)
    _monitoring(home, folder)


def _made(path: Path) -> Values:
    """Kept as they are; what an older Slipway did not know is added."""
    found: Values = json.loads(path.read_text()) if path.exists() else {}
    if missing := [name for name in _VALUES if name not in found]:
        found |= {name: secrets.token_urlsafe(24) for name in missing}
        write_secret(path, json.dumps(found, indent=1))
    return found


def _services(home: Home, values: Values) -> dict[str, Files]:
    airflow = credentials_of(home)
    logins = (
        f"Airflow: {airflow.airflow_user} {airflow.airflow_password}",
        f"MLflow: admin {values['mlflow_admin']}",
    )
    login = "\n".join([*logins, ""])
    return {
        "postgres": {"password": values["postgres"]},
        "databases": {"password": values["postgres"], "databases.sql": _sql(values)},
        "redis": {"redis.conf": _redis(values)},
        "store": {"s3.json": json.dumps(_s3_accounts(values))},
        "mlflow": {"env": _lines(_mlflow(home, values)), "auth.ini": _auth(values)},
        "airflow": {"env": _lines(_airflow(values)), "launcher-token": values["launcher"], "login": login},
        "controller": {"env": _lines(_controller(values)), "launcher-token": values["launcher"]},
        "launcher": {
            "env": _lines({"SLIPWAY_REDIS": _redis_url(values, 1)}),
            "launcher-token": values["launcher"],
        },
        "envoy": {"env": _lines({"SLIPWAY_ADS_TOKEN": values["ads"]})},
    }


def _monitoring(home: Home, folder: Path) -> None:
    token = "/run/slipway/alert-token"  # noqa: S105 - the file's place
    options = Options(
        alertmanager="alertmanager:9093",
        envoys=("envoy-a:8487", "envoy-b:8487"),
        controller="controller:8484",
        node_exporters=(),
        gpu_exporters=(),
        alert_token=token,
    )
    for path in write(home, folder / "monitoring", options):
        path.chmod(0o644)
    write_file(folder / "monitoring" / "alert-token", alert_token(secrets_of(home).current).encode())
    for path in (folder / "monitoring", *(folder / "monitoring").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _url(user: str, values: Values, driver: str = "") -> str:
    return f"postgresql{driver}://{user}:{values[user]}@{_POSTGRES}/{user}"


def _redis_url(values: Values, number: int) -> str:
    return f"redis://:{values['redis']}@{_REDIS}/{number}"


def _sql(values: Values) -> str:
    """For psql, as the server's first account; a database each, which belongs to an account of its name."""
    lines = []
    for name in _DATABASES:
        lines += [
            f"SELECT 'CREATE ROLE {name} LOGIN' WHERE NOT EXISTS"
            f" (SELECT FROM pg_roles WHERE rolname = '{name}') \\gexec",
            f"ALTER ROLE {name} PASSWORD '{values[name]}';",
            f"SELECT 'CREATE DATABASE {name} OWNER {name}' WHERE NOT EXISTS"
            f" (SELECT FROM pg_database WHERE datname = '{name}') \\gexec",
        ]
    return "\n".join([*lines, ""])


def _redis(values: Values) -> str:
    """Celery's broker, whose messages outlive a restart, and the pods' shared answers."""
    kept = 'appendonly yes\nsave ""\ndir /data\nmaxmemory 512mb\n'
    return f"requirepass {values['redis']}\n{kept}"


def _s3_accounts(values: Values) -> dict[str, Any]:
    accounts = {"writer": ["Admin", "Read", "Write", "List", "Tagging"], "reader": ["Read", "List"]}
    return {
        "identities": [
            {
                "name": name,
                "credentials": [{"accessKey": f"slipway-{name}", "secretKey": values[f"s3_{name}"]}],
                "actions": actions,
            }
            for name, actions in accounts.items()
        ]
    }


def _s3(values: Values) -> Values:
    return {
        "AWS_ENDPOINT_URL": _STORE,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "slipway-writer",
        "AWS_SECRET_ACCESS_KEY": values["s3_writer"],
    }


def _mlflow_login(values: Values) -> Values:
    return {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": values["mlflow_admin"]}


def _mlflow(home: Home, values: Values) -> Values:
    credentials = credentials_of(home)
    return {
        "MLFLOW_BACKEND_STORE_URI": _url("mlflow", values, "+psycopg"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": credentials.mlflow_secret_key,
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": credentials.webhook_fernet_key,
        "MLFLOW_S3_ENDPOINT_URL": _STORE,
        **_s3(values),
    }


def _auth(values: Values) -> str:
    """`admin` may do everything; who else has an account reads, unless somebody gives more."""
    return (
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {_url('mlflow_auth', values, '+psycopg')}\n"
        f"admin_username = admin\nadmin_password = {values['mlflow_admin']}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        # Each check takes a tenth of a second of a processor otherwise.
        "auth_cache_ttl_seconds = 60\n"
    )


def _airflow(values: Values) -> Values:
    database = _url("airflow", values, "+psycopg")
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": database,
        "AIRFLOW__CELERY__BROKER_URL": _redis_url(values, 0),
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database}",
        "SLIPWAY_CONTROLLER_TOKEN": values["controller"],
        **_mlflow_login(values),
        **_s3(values),
    }


def _controller(values: Values) -> Values:
    return {
        "SLIPWAY_DATABASE_URL": _url("ledger", values),
        "SLIPWAY_CONTROLLER_TOKEN": values["controller"],
        "SLIPWAY_ADS_TOKEN": values["ads"],
        **_mlflow_login(values),
        **_s3(values),
    }


def _lines(values: Values) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())


def own_environment(folder: Path) -> Values:
    """What `secrets` gave this service; nothing where it gave none."""
    path = folder / "env"
    text = path.read_text() if path.exists() else ""
    return dict(line.split("=", 1) for line in text.splitlines() if line)


def become(home: Home, command: list[str], environ: Mapping[str, str], folder: Path = OWN) -> NoReturn:
    """What the file in docker-compose.yaml says goes before what is usual."""
    os.execvpe(command[0], command, {**common_environment(home), **own_environment(folder), **environ})


def make_buckets() -> None:
    """Those that are not there. The environment says where and as whom."""
    import boto3

    os.environ.update(own_environment(OWN))
    client = boto3.client("s3")
    there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in there:
            client.create_bucket(Bucket=name)


def main(arguments: list[str]) -> None:
    home = Home.locate()
    match arguments:
        case ["secrets"]:
            os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = "of each service"
            make(home, ALL)
        case ["buckets"]:
            make_buckets()
        case ["run", *command] if command:
            become(home, command, os.environ)
        case _:
            raise Permanent(f"cannot do {arguments}", remedy="secrets, buckets, or run COMMAND ...")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SlipwayError as problem:
        sys.exit(f"error: {problem}")
