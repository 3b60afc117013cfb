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
from serving.local_stack.containers import ALL, OWN

ENDS = {"secrets", "databases", "setup", "webhooks", "pod-image", "pod-image-recording", "backup"}
# Its story is not begun again halfway.
ONCE = {"demo"}
OURS = "${SLIPWAY_IMAGE:-slipway}"


@pytest.fixture
def services() -> dict[str, dict[str, Any]]:
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def mounts(service: dict[str, Any]) -> list[str]:
    """What a service mounts, by its source, where nobody sets a variable."""
    every = [
        re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", each) if isinstance(each, str) else each
        for each in service.get("volumes", ())
    ]
    return [each["source"] if isinstance(each, dict) else each.partition(":")[0] for each in every]


def test_what_stays_is_started_again_checked_and_fills_no_disk(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        stays = name not in ENDS
        assert (service["restart"] == "unless-stopped") == (stays and name not in ONCE), name
        assert ("healthcheck" in service) == stays, name
        if not name.startswith("pod-image"):
            assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}, name


def test_a_check_starts_no_python_and_is_seldom_once_it_is_up(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        if check := service.get("healthcheck"):
            assert "python" not in " ".join(check["test"])
            assert (check["interval"], check["start_interval"]) == ("${SLIPWAY_CHECK_INTERVAL:-30s}", "2s")


def test_nothing_is_published_beyond_this_machine(services: dict[str, dict[str, Any]]) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert len(published) >= 3
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_one_service_holds_dockers_socket_and_nobody_has_capabilities_or_the_hosts_network(
    services: dict[str, dict[str, Any]],
) -> None:
    holders = [name for name, service in services.items() if "/var/run/docker.sock" in mounts(service)]
    assert holders == ["launcher"]
    for name, service in services.items():
        assert service.get("network_mode") in (None, "none"), name
        assert not service.get("privileged"), name
        if service["image"] == OURS:
            assert service["cap_drop"] == ["ALL"], name
            # Whose files it keeps are others'.
            assert ("cap_add" in service) == (name == "backup"), name


def test_a_service_sees_only_its_own_secrets_and_changes_none(services: dict[str, dict[str, Any]]) -> None:
    """But for the one that makes them, and the one that keeps them."""
    for name, service in services.items():
        secret = [each for each in service.get("volumes", ()) if each.startswith("secrets")]
        if name not in ("secrets", "backup"):
            assert len(secret) <= 1, name
            assert all(each.endswith(f":{OWN}:ro") for each in secret), name


def test_the_paths_in_the_image_are_those_that_the_code_uses(services: dict[str, dict[str, Any]]) -> None:
    dockerfile = (REPOSITORY / services["secrets"]["build"]["dockerfile"]).read_text()
    assert "SLIPWAY_HOME=/var/lib/slipway" in dockerfile
    assert f" {OWN} {ALL} " in dockerfile
    home = Home(Path("/var/lib/slipway"), Ports())
    assert f"bundles:{home.store}" in services["controller"]["volumes"]
    assert f"requests:{home.requests}" in services["controller"]["volumes"]
    assert services["launcher"]["environment"]["SLIPWAY_POD_BUNDLES"].endswith("_bundles:bundles")
    for service in services.values():
        check = service.get("healthcheck", {}).get("test", ())
        if service["image"] == OURS and check and check[0] == "CMD":
            assert (REPOSITORY / check[1]).exists()


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
        named = {volume for volume in mounts(service) if not volume.startswith((".", "/"))}
        assert named <= set(compose["volumes"])
        assert set(service.get("networks", ())) <= set(compose["networks"])
        assert set(service.get("depends_on", ())) <= set(services)
