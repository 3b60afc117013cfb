"""What starts is what the person was shown, or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from serving.control import audit_entries
from tests.airflow.desk import API, forget_runs, run_states
from tests.airflow.people import ApiServer
from tests.airflow.world import MODEL, World

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]
ASKED = {"model": MODEL, "version": "candidate", "reason": "better"}


@pytest.fixture(autouse=True)
def _fresh(in_database: None) -> None:
    forget_runs()


def seen(server: ApiServer) -> dict[str, Any]:
    """What the page sends of the preview it showed."""
    shown = server.of("rita").get(f"{API}/releases/preview?model={MODEL}&version=candidate").json()
    return {"expected_version": shown["version"], "expected_digest": shown["digest"]}


def test_the_previewed_version_starts(server: ApiServer, world: World) -> None:
    answer = server.of("rita").post(f"{API}/releases", json=ASKED | seen(server))
    assert (answer.status_code, answer.json()["version"]) == (202, 1)


def test_an_alias_that_moved_since_the_preview_starts_nothing(server: ApiServer, world: World) -> None:
    expected = seen(server)
    world.registry.aliases_by_model[MODEL]["candidate"] = 4
    answer = server.of("rita").post(f"{API}/releases", json=ASKED | expected)
    assert answer.status_code == 409
    assert answer.json()["detail"] == "candidate of fraud is version 4 by now, not version 1 as previewed"
    assert "preview" in answer.json()["remedy"]
    assert (run_states(f"release_{MODEL}"), audit_entries.trail_of(world.services).entries()) == ([], [])


def test_a_spec_that_changed_since_the_preview_starts_nothing(server: ApiServer, world: World) -> None:
    expected = seen(server) | {"expected_digest": "sha256:" + "0" * 64}
    answer = server.of("rita").post(f"{API}/releases", json=ASKED | expected)
    assert answer.status_code == 409
    assert answer.json()["detail"] == "the spec of fraud is another by now than the one previewed"
    assert run_states(f"release_{MODEL}") == []


def test_a_request_that_is_repeated_finds_its_release_though_the_alias_moved(
    server: ApiServer, world: World
) -> None:
    body, key = ASKED | seen(server), {"Idempotency-Key": "build-7"}
    first = server.of("rita").post(f"{API}/releases", json=body, headers=key).json()
    world.registry.aliases_by_model[MODEL]["candidate"] = 4
    again = server.of("rita").post(f"{API}/releases", json=body, headers=key).json()
    assert (again["release_id"], again["repeated"]) == (first["release_id"], True)
