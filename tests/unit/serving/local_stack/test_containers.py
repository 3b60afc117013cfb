"""What `secrets` of docker-compose.yaml makes: once, for each service its own, readable and nobody else's."""

from __future__ import annotations

import configparser
import json
from pathlib import Path

import yaml

from model_store.installation import ROOT as REPOSITORY
from serving.home import Home, Ports
from serving.local_stack.containers import ALL, make, own_environment


def made(tmp_path: Path) -> Path:
    make(Home(tmp_path / "home", Ports()), tmp_path / "secrets")
    return tmp_path / "secrets"


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_every_volume_that_a_service_mounts_is_filled(tmp_path: Path) -> None:
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())
    wanted = {name.removeprefix("secrets-") for name in compose["volumes"] if name.startswith("secrets-")}
    assert {path.name for path in made(tmp_path).iterdir() if path.is_dir()} == wanted
    mounted = {each for each in compose["services"]["secrets"]["volumes"] if each.startswith("secrets-")}
    assert mounted == {f"secrets-{name}:{ALL}/{name}" for name in wanted}


def test_made_again_everything_stays(tmp_path: Path) -> None:
    before = texts(made(tmp_path))
    assert texts(made(tmp_path)) == before


def test_a_service_finds_no_secret_of_another(tmp_path: Path) -> None:
    folder = made(tmp_path)
    values = json.loads((folder / "values.json").read_text())
    assert (folder / "values.json").stat().st_mode & 0o077 == 0

    def known_to(service: str) -> set[str]:
        told = "".join(texts(folder / service).values())
        return {name for name, value in values.items() if value in told}

    assert known_to("envoy") == {"ads"}
    assert known_to("redis") == {"redis"}
    assert known_to("postgres") == {"postgres"}
    assert known_to("launcher") == {"launcher", "redis"}
    assert "ledger" not in known_to("airflow")
    assert "postgres" not in known_to("controller") | known_to("airflow") | known_to("mlflow")


def test_what_a_service_is_given_is_its_environment(tmp_path: Path) -> None:
    folder = made(tmp_path)
    given = own_environment(folder / "airflow")
    assert given["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("postgresql+psycopg://airflow:")
    assert own_environment(folder / "postgres") == {}
    accounts = configparser.RawConfigParser()
    accounts.read(folder / "mlflow" / "auth.ini")
    assert accounts["mlflow"]["admin_password"] == given["MLFLOW_TRACKING_PASSWORD"]


def test_prometheus_and_alertmanager_find_the_services(tmp_path: Path) -> None:
    folder = made(tmp_path) / "monitoring"
    jobs = {
        job["job_name"]: job
        for job in yaml.safe_load((folder / "prometheus.yml").read_text())["scrape_configs"]
    }
    assert jobs["slipway-gateway"]["static_configs"] == [{"targets": ["envoy-a:8487", "envoy-b:8487"]}]
    assert jobs["slipway-pods"]["http_sd_configs"][0]["url"] == "http://controller:8484/targets"
    assert "/run/slipway/alert-token" in (folder / "alertmanager.yml").read_text()
