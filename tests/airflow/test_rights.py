"""Rights as any auth manager of Airflow may grant them: also alone, and for single DAGs, as FAB does."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import HTTPException
from slipway_airflow import authorization
from slipway_airflow.authorization import person_of
from starlette.requests import Request

from serving.web.access import Person, Right, reads, requires


class User:
    def __init__(self, *grants: str) -> None:
        self.grants = set(grants)

    def get_id(self) -> str:
        return "7"

    def get_name(self) -> str:
        return "fay"


class Manager:
    """Grants are "METHOD entity" or "METHOD entity dag". Whoever may read one DAG may list, as with FAB."""

    def is_authorized_dag(self, *, method: Any, access_entity: Any, details: Any, user: User) -> bool:
        grant = f"{method} {access_entity.value}"
        if details is None:
            return any(one.startswith(grant) for one in user.grants)
        return grant in user.grants or f"{grant} {details.id}" in user.grants

    def is_authorized_pool(self, *, method: Any, details: Any, user: User) -> bool:
        return f"{method} POOL" in user.grants


@pytest.fixture(autouse=True)
def _manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorization, "get_auth_manager", Manager)


def request(params: dict[str, str], query: str = "", path: str = "/api/v1/releases") -> Request:
    said = {"path": path, "path_params": params, "query_string": query.encode()}
    return Request({"type": "http", "headers": [], "server": ("slipway", 80), **said})


@pytest.mark.parametrize(
    ("grant", "right"),
    [
        ("GET RUN", Right.VIEW),
        ("POST RUN", Right.RELEASE),
        ("PUT HITL_DETAIL", Right.APPROVE),
        ("PUT POOL", Right.ADMIN),
    ],
)
def test_each_right_is_one_permission_and_includes_no_other(grant: str, right: Right) -> None:
    assert person_of(User(grant)).rights == {right}


def test_who_has_no_permission_has_no_right() -> None:
    assert person_of(User()).rights == frozenset()


def test_a_right_on_one_dag_is_a_right_on_its_model_only() -> None:
    person = person_of(User("POST RUN release_fraud"))
    assert person.may(Right.RELEASE, "fraud")
    assert not person.may(Right.RELEASE, "churn")
    assert not person.may(Right.RELEASE)


@pytest.mark.parametrize(
    ("path", "query"),
    [({"model": "fraud"}, ""), ({"release_id": "fraud-v3-20261121T201500Z"}, ""), ({}, "model=fraud")],
)
def test_an_endpoint_asks_for_the_model_it_is_about(path: dict[str, str], query: str) -> None:
    allowed, asked = person_of(User("POST RUN release_fraud")), requires(Right.RELEASE)
    assert asked(request(path, query), allowed) is allowed
    with pytest.raises(HTTPException) as refused:
        asked(request(path, query), person_of(User("POST RUN release_churn")))
    assert refused.value.status_code == 403


def test_an_endpoint_about_everything_takes_the_right_on_everything() -> None:
    with pytest.raises(HTTPException):
        requires(Right.RELEASE)(request({}), person_of(User("POST RUN release_fraud")))


@pytest.mark.parametrize("path", ["/api/v1/models", "/api/v1/serving-at", "/", "/history", "/freezes-page"])
def test_naming_a_model_opens_no_endpoint_about_all_models(path: str) -> None:
    asked, fay = requires(Right.VIEW), person_of(User("GET RUN release_fraud"))
    with pytest.raises(HTTPException):
        asked(request({}, "model=fraud", path), fay)


def test_who_may_read_some_models_reads_of_these_and_of_what_holds_all() -> None:
    fay = person_of(User("GET RUN release_fraud"))
    assert reads(request({}, path="/api/v1/history"), fay) is fay
    assert [fay.sees(model) for model in ("fraud", "churn", "", None)] == [True, False, True, True]
    with pytest.raises(HTTPException):
        reads(request({}, "model=churn", "/api/v1/history"), fay)


@pytest.mark.parametrize(
    "user", [User(), User("POST RUN", "PUT POOL"), User("PUT HITL_DETAIL release_fraud")]
)
def test_who_may_read_no_model_is_shown_no_list(user: User) -> None:
    with pytest.raises(HTTPException):
        reads(request({}, path="/api/v1/history"), person_of(user))


def test_a_model_named_in_the_query_does_not_stand_in_for_the_one_in_the_path() -> None:
    with pytest.raises(HTTPException):
        requires(Right.RELEASE)(
            request({"model": "churn"}, "model=fraud"), person_of(User("POST RUN release_fraud"))
        )


def test_a_person_without_a_login_behind_has_only_the_rights_named() -> None:
    assert not Person("nobody", frozenset({Right.VIEW})).may(Right.RELEASE, "fraud")
