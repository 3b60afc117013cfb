"""The acting API keeps what its OpenAPI document promises, whatever it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode

from serving import composition
from tests.airflow.desk import API, forget_runs, under_way, waiting_for_approval
from tests.airflow.people import ApiServer, api_server
from tests.airflow.world import World

OPERATIONS = [
    ("get", "/api/v1/me"),
    ("get", "/api/v1/releases/preview"),
    ("post", "/api/v1/releases"),
    *(
        ("post", f"/api/v1/releases/{{release_id}}/{act}")
        for act in ("pause", "resume", "skip", "override", "approve", "reject", "abort")
    ),
    ("post", "/api/v1/models/{model}/rollback"),
    ("get", "/api/v1/audit"),
    ("get", "/api/v1/freezes"),
    ("post", "/api/v1/freezes"),
    ("post", "/api/v1/freezes/{freeze_id}/lift"),
    ("delete", "/api/v1/freezes/{freeze_id}"),
]
# It takes nothing.
CANNOT_BE_WRONG = {("get", "/api/v1/me")}

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def server(in_database: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With a world behind it, and whoever asks has every right."""
    world = World(tmp_path_factory.mktemp("world"))
    forget_runs()
    with (
        pytest.MonkeyPatch.context() as patch,
        api_server(tmp_path_factory.mktemp("people"), {"ada": "admin"}) as server,
    ):
        patch.setattr(composition, "wire", lambda home=None: world.services)
        server.releases = [under_way(world).id, waiting_for_approval(world, allowed=()).id]
        yield server


def generated(server: ApiServer, method: str, path: str, mode: GenerationMode) -> Any:
    """Requests that the document allows, or (NEGATIVE) forbids."""
    document = schemathesis.openapi.from_asgi(f"{API}/openapi.json", server.app)
    return document[path][method].as_strategy(generation_mode=mode)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda part: part.strip("/"))
def test_every_answer_is_one_that_the_document_promises(
    server: ApiServer, method: str, path: str, mode: GenerationMode
) -> None:
    if mode is GenerationMode.NEGATIVE and (method, path) in CANNOT_BE_WRONG:
        return
    tried: list[Any] = []

    @settings(
        max_examples=8,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=generated(server, method, path, mode))
    def ask(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and "release_id" in (case.path_parameters or {}):
            # One that exists, two times of three.
            known = [*server.releases, case.path_parameters["release_id"]]
            case.path_parameters["release_id"] = known[len(tried) % len(known)]
        tried.append(case)
        case.call_and_validate(headers={"Authorization": f"Bearer {server.token('ada')}"})

    ask()
    assert tried


def test_the_document_describes_every_endpoint_field_and_refusal(server: ApiServer) -> None:
    document = server.of("ada").get(f"{API}/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not {"actions", "freezes"} & set(operation.get("tags", ())):
                continue
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["description"], where
            assert {"401", "403"} <= set(operation["responses"]), where
            assert all(parameter.get("description") for parameter in operation.get("parameters", ())), where


def test_the_secret_of_nobody_is_in_the_document(server: ApiServer) -> None:
    text = server.of("ada").get(f"{API}/openapi.json").text
    assert "word of ada" not in text
    assert str(Path.home()) not in text
