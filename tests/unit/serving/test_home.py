from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from model_store.errors import Permanent
from serving.home import Home, Ports


def test_a_port_base_moves_every_port_by_the_same_distance() -> None:
    usual, moved = asdict(Ports()), asdict(Ports.from_base(9000))
    assert {moved[name] - usual[name] for name in usual} == {9000 - Ports().airflow}


def test_one_variable_moves_one_port_and_wins_over_base_and_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"ports": {"controller": 7001, "mlflow": 7002}}))
    environ = {"SLIPWAY_HOME": str(tmp_path), "SLIPWAY_PORT_CONTROLLER": "7777"}
    assert Home.locate(environ).ports == Ports(controller=7777, mlflow=7002)
    environ["SLIPWAY_PORT_BASE"] = "9000"
    assert Home.locate(environ).ports.controller == 7777
    assert Home.locate(environ).ports.mlflow == 9001


@pytest.mark.parametrize("port", ["", "x", "80", "70000", "-1", "8480.5"])
def test_what_is_no_port_is_refused_by_name(tmp_path: Path, port: str) -> None:
    environ = {"SLIPWAY_HOME": str(tmp_path), "SLIPWAY_PORT_MLFLOW": port}
    if port == "":
        assert Home.locate(environ).ports == Ports()
        return
    with pytest.raises(Permanent, match="SLIPWAY_PORT_MLFLOW"):
        Home.locate(environ)


def test_the_controllers_port_of_an_installation_that_called_it_guard_stays(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"ports": {"guard": 7001}}))
    assert Home.locate({"SLIPWAY_HOME": str(tmp_path)}).ports == Ports(controller=7001)


@pytest.mark.parametrize("content", ["", "{}", '{"ports": 1}', '{"ports": {"controller": "x"}}'])
def test_an_unreadable_config_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(Permanent, match=r"config\.json"):
        Home.locate({"SLIPWAY_HOME": str(tmp_path)})


def test_ports_of_another_version_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"ports": {"fax": 7001, "controller": 7002}}))
    assert Home.locate({"SLIPWAY_HOME": str(tmp_path)}).ports == Ports(controller=7002)


def test_how_envoys_are_told_is_kept_with_the_home_and_given_by_the_environment(tmp_path: Path) -> None:
    environ = {"SLIPWAY_HOME": str(tmp_path)}
    assert Home.locate(environ).delivery == "files"
    (tmp_path / "config.json").write_text('{"ports": {}, "gateway_delivery": "ads"}')
    assert Home.locate(environ).delivery == "ads"
    assert Home.locate({**environ, "SLIPWAY_GATEWAY_DELIVERY": "files"}).delivery == "files"


def test_components_elsewhere_are_found_by_their_urls(tmp_path: Path) -> None:
    environ = {"SLIPWAY_HOME": str(tmp_path), "SLIPWAY_AIRFLOW_URL": "https://airflow.example/"}
    home = Home.locate(environ)
    assert home.airflow_url == "https://airflow.example"
    assert home.mlflow_url == f"http://127.0.0.1:{home.ports.mlflow}"
    with pytest.raises(Permanent, match="SLIPWAY_AIRFLOW_URL='airflow:8480' is no address"):
        Home.locate({**environ, "SLIPWAY_AIRFLOW_URL": "airflow:8480"})


def test_several_controllers_have_addresses_with_commas_between(tmp_path: Path) -> None:
    given = {"SLIPWAY_HOME": str(tmp_path), "SLIPWAY_CONTROLLER_URL": "http://a:1/, http://b:2"}
    home = Home.locate(given)
    assert (home.controller_urls, home.controller_url) == (("http://a:1", "http://b:2"), "http://a:1")
    with pytest.raises(Permanent, match="no address"):
        Home.locate({**given, "SLIPWAY_CONTROLLER_URL": "http://a:1,b"})
