from __future__ import annotations

import sqlite3
import stat
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from serving.credentials import credentials_of
from serving.home import Home, Ports
from serving.local_stack import airflow_config


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", Ports())


def test_every_setting_is_one_that_this_airflow_knows(home: Home) -> None:
    package = find_spec("airflow")
    assert package
    assert package.submodule_search_locations
    described = Path(package.submodule_search_locations[0]) / "config_templates" / "config.yml"
    known = yaml.safe_load(described.read_text())
    wanted = airflow_config.settings(home, credentials_of(home))
    unknown = [
        f"{section}.{key}"
        for section, keys in wanted.items()
        for key in keys
        if key not in known[section]["options"]
    ]
    assert unknown == []


def test_the_files_hold_secrets_and_are_their_owners_only(home: Home) -> None:
    airflow_config.write(home, credentials_of(home))
    assert stat.S_IMODE(home.airflow.stat().st_mode) == 0o700
    for name in ("airflow.cfg", "passwords.json"):
        assert stat.S_IMODE((home.airflow / name).stat().st_mode) == 0o600


def test_writing_again_changes_nothing(home: Home) -> None:
    airflow_config.write(home, credentials_of(home))
    before = (home.airflow / "airflow.cfg").read_text()
    airflow_config.write(home, credentials_of(home))
    assert (home.airflow / "airflow.cfg").read_text() == before


def test_airflow_stores_and_listens_only_at_home(home: Home) -> None:
    wanted = airflow_config.settings(home, credentials_of(home))
    assert wanted["api"]["host"] == "127.0.0.1"
    for section, key in (
        ("logging", "base_log_folder"),
        ("logging", "dag_processor_child_process_log_directory"),
        ("dag_processor", "dag_bundle_storage_path"),
        ("core", "simple_auth_manager_passwords_file"),
    ):
        assert Path(wanted[section][key]).is_relative_to(home.root)


def test_the_schema_is_migrated_once_for_each_airflow_version(home: Home) -> None:
    home.airflow.mkdir(parents=True)
    assert not airflow_config.is_migrated(home)
    airflow_config.database(home).touch()
    assert not airflow_config.is_migrated(home)
    airflow_config.record_migrated(home)
    assert airflow_config.is_migrated(home)
    (home.airflow / "migrated").write_text("3.0.0")
    assert not airflow_config.is_migrated(home)


def test_only_running_jobs_of_the_dead_kind_are_ended(tmp_path: Path) -> None:
    database = tmp_path / "airflow.db"
    with sqlite3.connect(database) as connection:
        # The columns of airflow.jobs.job.Job that matter here.
        connection.execute("CREATE TABLE job (id INTEGER, job_type TEXT, state TEXT, end_date TIMESTAMP)")
        connection.executemany(
            "INSERT INTO job VALUES (?, ?, ?, NULL)",
            [(1, "SchedulerJob", "running"), (2, "SchedulerJob", "success"), (3, "TriggererJob", "running")],
        )
    connection.close()
    assert airflow_config.end_running(database, "SchedulerJob") == 1
    connection = sqlite3.connect(database)
    found = connection.execute("SELECT id, state, end_date IS NULL FROM job ORDER BY id").fetchall()
    connection.close()
    assert found == [(1, "failed", 0), (2, "success", 1), (3, "running", 1)]
