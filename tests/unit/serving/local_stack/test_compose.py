"""What docker-compose.yaml names must exist, also where there is no Docker to run it (`tests/docker`)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from model_store.installation import ROOT as REPOSITORY
from serving.home import Home, Ports
from serving.local_stack.components import components
from serving.supervision.supervisor import configuration_path

# Of https://github.com/compose-spec/compose-spec, what a service of ours may say.
KNOWN_KEYS = {
    *("build", "command", "depends_on", "environment", "healthcheck", "image", "init", "network_mode"),
    *("restart", "stop_grace_period", "volumes"),
}


@pytest.fixture
def services() -> dict[str, dict[str, Any]]:
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def test_every_component_is_a_service_that_launches_it(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    known = components(Home(tmp_path, Ports()))
    assert set(services) == {*known, "prepare", "pods", "webhooks"}
    for name in known:
        assert services[name]["command"] == ["python", "-m", "serving.local_stack.launch", name]
        assert services[name]["healthcheck"]["test"][-2:] == ["serving.local_stack.health", name]


def test_every_service_waits_for_what_is_prepared(services: dict[str, dict[str, Any]]) -> None:
    def waits(name: str) -> bool:
        return name == "prepare" or any(map(waits, services[name]["depends_on"]))

    assert [name for name in services if not waits(name)] == []


def test_what_serves_and_what_takes_users_back_wait_for_nothing_that_may_be_down(
    services: dict[str, dict[str, Any]],
) -> None:
    for name in ("envoy", "controller", "pods"):
        assert list(services[name]["depends_on"]) == ["prepare"]


def test_nothing_is_published_and_every_key_is_known(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        assert service["network_mode"] == "host"
        assert set(service) - KNOWN_KEYS == set()


def test_the_paths_in_the_image_are_those_that_the_code_uses(services: dict[str, dict[str, Any]]) -> None:
    dockerfile = (REPOSITORY / services["prepare"]["build"]["dockerfile"]).read_text()
    inside = Home(Path("/var/lib/slipway"), Ports())
    assert f"SLIPWAY_HOME={inside.root}" in dockerfile
    assert services["pods"]["command"][-1] == str(configuration_path(inside))
    for source in ("requirements.txt", "dags"):
        assert (REPOSITORY / source).exists()


def schema_says(compose: dict[str, Any]) -> list[str]:
    """What the Compose specification's own schema has against the file."""
    schema = json.loads((Path(__file__).parent / "compose_spec" / "compose-spec.json").read_text())
    found = jsonschema.Draft201909Validator(schema).iter_errors(compose)
    return [f"{error.json_path}: {error.message}" for error in found]


@pytest.fixture
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())
    return found


def test_the_file_keeps_the_compose_specification(compose: dict[str, Any]) -> None:
    # The specification knows the project's name since 2022; the newest schema in a registry is older.
    assert re.fullmatch("[a-z0-9][a-z0-9_-]*", compose.pop("name"))
    assert schema_says(compose) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("restart", 7),
        ("depends_on", {"prepare": {"condition": "some day"}}),
        ("healthcheck", {"interval": 5}),
        ("volume", ["a:/b"]),
    ],
)
def test_the_schema_finds_what_compose_would_refuse(compose: dict[str, Any], key: str, value: object) -> None:
    compose["services"]["mlflow"][key] = value
    assert any("$.services.mlflow" in problem for problem in schema_says(compose))


def test_every_volume_is_declared_and_every_dependency_is_a_service(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        named = {str(volume).partition(":")[0] for volume in service.get("volumes", ())}
        assert {volume for volume in named if not volume.startswith((".", "/"))} <= set(compose["volumes"])
        assert set(service.get("depends_on", ())) <= set(services)
