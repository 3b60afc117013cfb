"""Airflow's API server with FAB's login: accounts and roles in Airflow's database, as an admin makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.airflow.people import ApiServer, api_server

FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
OUR_FAB = "slipway_airflow.fab.SlipwayFab"

# Of a role: "can_read DAG Runs" and so on, or the name of one of Airflow's own roles.
Grants = tuple[str, ...]


@contextmanager
def fab_server(folder: Path, people: Mapping[str, Grants], login: str) -> Iterator[ApiServer]:
    """With these people, each of whom has a role of their own, or one of Airflow's."""
    with api_server(folder, dict.fromkeys(people, "none"), login) as server:
        enrol(people)
        yield server


def enrol(people: Mapping[str, Grants]) -> None:
    from airflow.api_fastapi.app import get_auth_manager

    manager: Any = get_auth_manager()
    with manager.flask_app.app_context():
        for name, grants in people.items():
            _enrol(manager.security_manager, name, grants)


def account_of(name: str) -> int:
    """FAB's id of a user."""
    from airflow.providers.fab.auth_manager.models import User
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session(scoped=False) as session:
        found = session.scalar(select(User.id).where(User.username == name))
    assert found is not None
    return int(found)


def _enrol(security: Any, name: str, grants: Grants) -> None:
    if security.find_user(username=name):
        return
    role = security.find_role(grants[0]) if grants and " " not in grants[0] else _role(security, name, grants)
    assert security.add_user(name, name, "Test", f"{name}@example.org", role, password=f"word of {name}")


def _role(security: Any, name: str, grants: Grants) -> Any:
    role = security.add_role(f"role of {name}")
    for grant in grants:
        action, _, resource = grant.partition(" ")
        security.add_permission_to_role(role, security.create_permission(action, resource))
    return role
