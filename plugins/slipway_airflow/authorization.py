"""Who may do what on the page, by Airflow's own login and Airflow's own permissions.

Airflow mounts the apps of plugins without any authentication, so the page asks for itself
(`serving.web.access`). What a right takes is asked of Airflow's auth manager, so the same person may do the
same there and in Airflow's own pages:

    VIEW     read DAG runs                      SimpleAuthManager viewer   FAB Viewer
    RELEASE  create DAG runs                    SimpleAuthManager user     FAB User
    APPROVE  answer human-in-the-loop requests  SimpleAuthManager user     FAB User
    ADMIN    edit pools                         SimpleAuthManager op       FAB Op

Under FAB a role of its own may hold any of them alone, also for single DAGs (`DAG:release_<model>`); the
local stack's `SlipwayLogin` has the roles releaser and approver for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    DagAccessEntity,
    DagDetails,
    PoolDetails,
)
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.configuration import conf
from fastapi import Request

from serving.control.specs import dag_id_of
from serving.web.access import Person, Right

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager

# No model can be called so: who may act on its DAG may act on every DAG. Asked without naming any, FAB lets
# everybody list DAGs who may read a single one, and looks at no DAG at all when something is to be changed.
_EVERY_MODEL = "every model"


def authenticate(request: Request, user: GetUserDep) -> None:
    """A dependency: who asks, as Airflow's login knows them. Airflow raises 401 without a valid login."""
    request.state.person = person_of(user)


def person_of(user: Any) -> Person:
    """What Airflow's auth manager says of its user."""
    permissions = AirflowPermissions(user)
    rights = frozenset(right for right in Right if permissions.allows(right, _EVERY_MODEL))
    return Person(str(user.get_name()), rights, permissions, user)


def login_url(back: str) -> str:
    """Airflow's form, which leads back to this address."""
    return get_auth_manager().get_url_login(next_url=back)


def secret_key() -> str:
    """What Airflow signs its own cookies with."""
    return conf.get_mandatory_value("api", "secret_key")


class AirflowPermissions:
    """What one user may, asked of Airflow's auth manager."""

    def __init__(self, user: Any) -> None:
        self._user = user

    def reads_some(self) -> bool:
        """As Airflow asks before it lists the DAG runs that somebody may read."""
        return self._dag("GET", DagAccessEntity.RUN, None)

    def allows(self, right: Right, model: str) -> bool:
        dag = DagDetails(id=dag_id_of(model))
        match right:
            case Right.VIEW:
                return self._dag("GET", DagAccessEntity.RUN, dag)
            case Right.RELEASE:
                return self._dag("POST", DagAccessEntity.RUN, dag)
            case Right.APPROVE:
                return self._dag("PUT", DagAccessEntity.HITL_DETAIL, dag)
            case Right.ADMIN:
                manager: BaseAuthManager[Any] = get_auth_manager()
                return manager.is_authorized_pool(method="PUT", details=PoolDetails(), user=self._user)

    def _dag(self, method: Any, entity: DagAccessEntity, dag: DagDetails | None) -> bool:
        manager: BaseAuthManager[Any] = get_auth_manager()
        return manager.is_authorized_dag(method=method, access_entity=entity, details=dag, user=self._user)
