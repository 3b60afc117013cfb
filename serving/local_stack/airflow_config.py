"""Airflow's configuration for one machine: SQLite, LocalExecutor, everything on 127.0.0.1.

Every value that differs from Airflow's default has its reason here; figures are in docs/operations.md.
`AIRFLOW__SECTION__KEY` in the environment of `slipway up` overrides any of it.
"""

from __future__ import annotations

import configparser
import io
import json
import os
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from model_store.durable import write_file
from model_store.installation import ROOT, is_clone
from serving.credentials import Credentials
from serving.home import Home
from serving.local_stack.users import users_of

# Several processes write one SQLite file: they queue for the write lock instead of failing (default 5 s).
SQLITE_CONNECT_ARGS = {"timeout": 60}

Settings = dict[str, dict[str, str]]


def database(home: Home) -> Path:
    return home.airflow / "airflow.db"


def settings(home: Home, credentials: Credentials) -> Settings:
    """Section -> key -> value, as text."""
    return {
        "core": _core(home, credentials),
        "database": _sqlite(home) if "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" not in os.environ else {},
        "logging": {
            "base_log_folder": str(home.logs / "airflow"),
            "dag_processor_child_process_log_directory": str(home.logs / "airflow" / "dag_processor"),
        },
        "api": {
            "host": "127.0.0.1",
            "port": str(home.ports.airflow),
            "base_url": home.airflow_url,
            "instance_name": "Slipway",
            "secret_key": credentials.airflow_secret_key,
            # A browser's open connections must not hold up `slipway down`.
            "worker_timeout": "5",
        },
        "api_auth": {"jwt_secret": credentials.airflow_jwt_secret, "jwt_issuer": "slipway"},
        **_loops(home),
    }


def _sqlite(home: Home) -> dict[str, str]:
    """Of a server these would be no arguments: whoever names one, names all of it."""
    return {
        "sql_alchemy_conn": f"sqlite:///{database(home)}",
        "sql_alchemy_connect_args": f"{__name__}.SQLITE_CONNECT_ARGS",
        "sql_alchemy_connect_args_async": f"{__name__}.SQLITE_CONNECT_ARGS",
    }


def _core(home: Home, credentials: Credentials) -> dict[str, str]:
    return {
        "dags_folder": str(home.dags),
        # Of a clone; what pip installed, Airflow finds by its entry point.
        "plugins_folder": str(ROOT / "plugins" if is_clone() else home.airflow / "plugins"),
        "executor": "LocalExecutor",
        # Two cores: four tasks at once keep them busy while one of them waits for a file or a server.
        "parallelism": "4",
        "load_examples": "False",
        # A spec that is there is a model to release: nobody wants to unpause it first.
        "dags_are_paused_at_creation": "False",
        "fernet_key": credentials.airflow_fernet_key,
        # Airflow's simple login, with roles that part releasing from approving.
        "auth_manager": "slipway_airflow.login.SlipwayLogin",
        "simple_auth_manager_users": ",".join(
            [f"{credentials.airflow_user}:admin", *(f"{user.name}:{user.role}" for user in users_of(home))]
        ),
        "simple_auth_manager_passwords_file": str(home.airflow / "passwords.json"),
        # The default asks DNS, which may take seconds on a laptop.
        "hostname_callable": "socket.gethostname",
        "min_serialized_dag_update_interval": "1",
    }


def _loops(home: Home) -> Settings:
    """How often Airflow's loops look. Tuned on two cores by benchmarks of a chain of empty tasks."""
    return {
        "scheduler": {
            "scheduler_heartbeat_sec": "2",
            "scheduler_idle_sleep_time": "0.2",
            "orphaned_tasks_check_interval": "15",
            "trigger_timeout_check_interval": "5",
        },
        # The API server may be restarting while a task runs: it takes a while to answer again, and the task
        # must neither give up nor be given up for that.
        "workers": {"execution_api_timeout": "30", "max_failed_heartbeats": "12"},
        "triggerer": {"job_heartbeat_sec": "2"},
        "dag_processor": {
            # The default is the machine's /tmp, which every installation would share.
            "dag_bundle_storage_path": str(home.airflow / "bundles"),
            "refresh_interval": "5",
            "bundle_refresh_check_interval": "2",
            "min_file_process_interval": "10",
            "parsing_processes": "1",
            "print_stats_interval": "0",
        },
    }


def write(home: Home, credentials: Credentials) -> None:
    """Write airflow.cfg and the password file, both for their owner's eyes only."""
    parser = configparser.RawConfigParser()
    for section, values in settings(home, credentials).items():
        # Airflow reads `%(name)s` as a reference to another value.
        parser[section] = {key: value.replace("%", "%%") for key, value in values.items()}
    text = io.StringIO("# Written by `slipway up`; changes are lost. Override with AIRFLOW__SECTION__KEY.\n")
    text.seek(0, os.SEEK_END)
    parser.write(text)
    passwords = {user.name: user.password for user in users_of(home)}
    passwords[credentials.airflow_user] = credentials.airflow_password
    # Nobody else gets into the folder, so there is no moment at which others could read the files.
    home.airflow.mkdir(parents=True, exist_ok=True)
    home.airflow.chmod(0o700)
    for name, content in (("airflow.cfg", text.getvalue()), ("passwords.json", json.dumps(passwords))):
        write_file(home.airflow / name, content.encode())
        (home.airflow / name).chmod(0o600)


def environment(home: Home) -> dict[str, str]:
    """What makes the `airflow` command work on this installation."""
    return {"AIRFLOW_HOME": str(home.airflow), "AIRFLOW_CONFIG": str(home.airflow / "airflow.cfg")}


def is_migrated(home: Home) -> bool:
    """Whether the database was brought to this Airflow's schema. Asking Airflow itself costs four seconds."""
    mark = home.airflow / "migrated"
    return database(home).exists() and mark.exists() and mark.read_text() == version("apache-airflow-core")


def record_migrated(home: Home) -> None:
    write_file(home.airflow / "migrated", version("apache-airflow-core").encode())


def end_running(database: Path, job_type: str) -> int:
    """Mark running jobs of this type as failed and ended: their work is taken over. Returns how many.

    Airflow believes a killed scheduler or triggerer alive for `*_health_check_threshold` (30 s) after its
    last heartbeat, and leaves its tasks and triggers alone for that long. The launcher knows better: it has
    just ended the last of the predecessor's processes.

    What `Job.kill` and `SchedulerJobRunner.adopt_or_reset_orphaned_tasks` of Airflow 3.3 write.
    """
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        ended = connection.execute(
            "UPDATE job SET state = 'failed', end_date = strftime('%Y-%m-%d %H:%M:%f', 'now')"
            " WHERE job_type = ? AND state = 'running'",
            (job_type,),
        )
        return ended.rowcount
