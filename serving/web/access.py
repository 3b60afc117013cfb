"""Who may do what, by Airflow's own login and Airflow's own permissions.

Airflow mounts the apps of plugins without any authentication, so every endpoint has to ask: it depends on
`requires(Right...)`, or on `signed_in` where a model is only known from the body. What a right takes is
asked of Airflow's auth manager, so the same person may do the same here and in Airflow's own pages:

    VIEW     read DAG runs                      SimpleAuthManager viewer   FAB Viewer
    RELEASE  create DAG runs                    SimpleAuthManager user     FAB User
    APPROVE  answer human-in-the-loop requests  SimpleAuthManager user     FAB User
    ADMIN    edit pools                         SimpleAuthManager op       FAB Op

APPROVE alone lets nobody approve: the spec has to name the person too. Under FAB a role of its own may hold
any of them alone, also for single DAGs (`DAG:release_<model>`); the local stack's `SlipwayLogin` has the
roles releaser and approver for that. Who may read single models is shown these and nothing of others.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    DagAccessEntity,
    DagDetails,
    PoolDetails,
)
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.configuration import conf
from fastapi import Depends, HTTPException, Request, Response

from serving.control.specs import dag_id_of

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager

CSRF_COOKIE = "slipway_csrf"
CSRF_HEADER = "x-slipway-csrf"
# No model can be called so: who may act on its DAG may act on every DAG. Asked without naming any, FAB lets
# everybody list DAGs who may read a single one, and looks at no DAG at all when something is to be changed.
_EVERY_MODEL = "every model"
# Where `?model=` leaves out all other models. Elsewhere it is only somebody's word.
_ABOUT_ONE = ("/releases", "/releases/preview", "/api/v1/history", "/history.csv", "/history.json")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Right(StrEnum):
    """Reading and acting are apart; none of the four includes another."""

    VIEW = "view"
    RELEASE = "release"
    APPROVE = "approve"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is signed in. `rights` are those on every model; `may` knows of single models too."""

    name: str
    rights: frozenset[Right]
    user: Any = field(default=None, compare=False, repr=False)
    _asked: dict[tuple[Right, str], bool] = field(default_factory=dict, compare=False, repr=False)

    def may(self, right: Right, model: str | None = None) -> bool:
        """Whether this person has the right: on every model, or on this one."""
        if right in self.rights:
            return True
        if model is None or self.user is None:
            return False
        if (right, model) not in self._asked:
            self._asked[right, model] = _allowed(self.user, right, model)
        return self._asked[right, model]

    def sees(self, model: str | None) -> bool:
        """Whether this person may read of the model. What holds every model (none is named) holds theirs."""
        return not model or self.may(Right.VIEW, model)

    def needs_to_read(self, model: str | None = None) -> None:
        """Raises 403 unless this person may read of the model; where none is named, of some models."""
        if model is not None or not (self.user is not None and _may_list(self.user)):
            self.needs(Right.VIEW, model)

    def needs(self, right: Right, model: str | None = None) -> None:
        """Raises 403 unless this person has the right. It says nothing of whether there is such a model."""
        if not self.may(right, model):
            raise HTTPException(403, f"{self.name} does not have the right to {_IN_WORDS[right]}")


_IN_WORDS = {
    Right.VIEW: "see releases",
    Right.RELEASE: "release or roll back models",
    Right.APPROVE: "approve releases",
    Right.ADMIN: "override or freeze releases",
}


def signed_in(request: Request, user: GetUserDep) -> Person:
    """Who asks. Raises 401 without a valid login, and 403 when a browser's request may be forged."""
    refuse_forged(request, user)
    return person_of(user)


SignedIn = Annotated[Person, Depends(signed_in)]


def requires(right: Right) -> Callable[..., Person]:
    """A dependency: the person who asks, if they have the right on the model or release of the path.

    Raises 401 or 403, in words that do not tell whether the model or release exists.
    """

    def person_with_right(request: Request, person: SignedIn) -> Person:
        person.needs(right, _model_of(request))
        return person

    return person_with_right


def reads(request: Request, person: SignedIn) -> Person:
    """A dependency: the person who asks, if they may read of the model or release that the address names.

    Where it names none, of any model: what is shown must then be asked of `sees`. Raises 401 or 403.
    """
    person.needs_to_read(_model_of(request))
    return person


Reader = Annotated[Person, Depends(reads)]


def person_of(user: Any) -> Person:
    """What Airflow's auth manager says of its user."""
    rights = frozenset(right for right in Right if _allowed(user, right, _EVERY_MODEL))
    return Person(str(user.get_name()), rights, user)


def csrf_token(user_name: str, nonce: str | None = None) -> str:
    """What a browser of this person must send back. Only the server's key makes one."""
    nonce = nonce or secrets.token_urlsafe(16)
    key = conf.get_mandatory_value("api", "secret_key").encode()
    signature = hmac.new(key, f"slipway-csrf\n{nonce}\n{user_name}".encode(), hashlib.sha256)
    return f"{nonce}.{signature.hexdigest()}"


def give_csrf_token(request: Request, response: Response, person: Person) -> str:
    """The person's token, put into a cookie unless the browser has a good one."""
    token = request.cookies.get(CSRF_COOKIE, "")
    if not _is_token_of(person.name, token):
        token = csrf_token(person.name)
        path = f"{request.scope.get('root_path', '')}/" if request.scope.get("root_path") else "/"
        secure = request.url.scheme == "https"
        # The page's script has to read it, hence not httponly; it is worth nothing without the login.
        response.set_cookie(CSRF_COOKIE, token, path=path, samesite="strict", secure=secure)
    return token


def refuse_forged(request: Request, user: Any) -> None:
    """Raises 403 for a change asked for by a browser's cookie that does not carry the token of our page.

    A bearer token is sent on purpose, never by a browser on its own: it needs nothing else.
    """
    if request.method in _SAFE_METHODS or _has_bearer(request):
        return
    sent, kept = request.headers.get(CSRF_HEADER, ""), request.cookies.get(CSRF_COOKIE, "")
    same = hmac.compare_digest(sent.encode(), kept.encode())
    if not same or not _is_token_of(str(user.get_name()), sent):
        raise HTTPException(
            403, f"this request did not come from Slipway's page: {CSRF_HEADER} is missing or wrong"
        )


def _is_token_of(user_name: str, token: str) -> bool:
    nonce, _, signature = token.partition(".")
    return bool(signature) and hmac.compare_digest(csrf_token(user_name, nonce).encode(), token.encode())


def _has_bearer(request: Request) -> bool:
    """As `airflow.api_fastapi.core_api.security.get_user` decides which login counts."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and bool(credentials.strip())


def _may_list(user: Any) -> bool:
    """As Airflow asks before it lists the DAG runs that somebody may read."""
    manager: BaseAuthManager[Any] = get_auth_manager()
    return manager.is_authorized_dag(method="GET", access_entity=DagAccessEntity.RUN, details=None, user=user)


def _allowed(user: Any, right: Right, model: str) -> bool:
    manager: BaseAuthManager[Any] = get_auth_manager()
    dag = DagDetails(id=dag_id_of(model))
    match right:
        case Right.VIEW:
            return manager.is_authorized_dag(
                method="GET", access_entity=DagAccessEntity.RUN, details=dag, user=user
            )
        case Right.RELEASE:
            return manager.is_authorized_dag(
                method="POST", access_entity=DagAccessEntity.RUN, details=dag, user=user
            )
        case Right.APPROVE:
            return manager.is_authorized_dag(
                method="PUT", access_entity=DagAccessEntity.HITL_DETAIL, details=dag, user=user
            )
        case Right.ADMIN:
            return manager.is_authorized_pool(method="PUT", details=PoolDetails(), user=user)


def _model_of(request: Request) -> str | None:
    """The model that the path or the query names, be it by a release's id."""
    parts = request.path_params
    if release := parts.get("release_id"):
        return str(release).rpartition("-v")[0] or None
    if model := parts.get("model"):
        return str(model)
    return request.query_params.get("model") if request.url.path.endswith(_ABOUT_ONE) else None
