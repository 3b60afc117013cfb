"""Who may do what. Who asks is the host's to say (`serving.web.ports.Host.authenticate`).

Every endpoint with a login asks: it depends on `requires(Right...)`, or on `signed_in` where a model is only
known from the body. APPROVE alone lets nobody approve: the spec has to name the person too. Who may read
single models is shown these and nothing of others.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Protocol

from fastapi import Depends, HTTPException, Request, Response

CSRF_COOKIE = "slipway_csrf"
CSRF_HEADER = "x-slipway-csrf"
# Where `?model=` leaves out all other models. Elsewhere it is only somebody's word.
_ABOUT_ONE = ("/releases", "/releases/preview", "/api/v1/history", "/history.csv", "/history.json")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Right(StrEnum):
    """Reading and acting are apart; none of the four includes another."""

    VIEW = "view"
    RELEASE = "release"
    APPROVE = "approve"
    ADMIN = "admin"


class Permissions(Protocol):
    """What the host's login says of one person, beside the rights on every model."""

    def allows(self, right: Right, model: str) -> bool:
        """Whether the person has the right on this model."""
        ...

    def reads_some(self) -> bool:
        """Whether the person may read of any model."""
        ...


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is signed in. `rights` are those on every model; `may` knows of single models too.

    `user` is the host's own record of them, which only the host reads.
    """

    name: str
    rights: frozenset[Right]
    permissions: Permissions | None = field(default=None, compare=False, repr=False)
    user: Any = field(default=None, compare=False, repr=False)
    _asked: dict[tuple[Right, str], bool] = field(default_factory=dict, compare=False, repr=False)

    def may(self, right: Right, model: str | None = None) -> bool:
        """Whether this person has the right: on every model, or on this one."""
        if right in self.rights:
            return True
        if model is None or self.permissions is None:
            return False
        if (right, model) not in self._asked:
            self._asked[right, model] = self.permissions.allows(right, model)
        return self._asked[right, model]

    def sees(self, model: str | None) -> bool:
        """Whether this person may read of the model. What holds every model (none is named) holds theirs."""
        return not model or self.may(Right.VIEW, model)

    def needs_to_read(self, model: str | None = None) -> None:
        """Raises 403 unless this person may read of the model; where none is named, of some models."""
        if model is not None or self.permissions is None or not self.permissions.reads_some():
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


async def signed_in(request: Request) -> Person:
    """Who asks. Raises 401 without a valid login, and 403 when a browser's request may be forged."""
    person = getattr(request.state, "person", None)
    if not isinstance(person, Person):
        raise HTTPException(401, "Not authenticated")
    refuse_forged(request, person)
    return person


SignedIn = Annotated[Person, Depends(signed_in)]


def requires(right: Right) -> Callable[..., Person]:
    """A dependency: the person who asks, if they have the right on the model or release of the path.

    Raises 401 or 403, in words that do not tell whether the model or release exists.
    """

    def person_with_right(request: Request, person: SignedIn) -> Person:
        person.needs(right, _model_of(request))
        return person

    return person_with_right


Releaser = Annotated[Person, Depends(requires(Right.RELEASE))]
Approver = Annotated[Person, Depends(requires(Right.APPROVE))]
Admin = Annotated[Person, Depends(requires(Right.ADMIN))]
Viewer = Annotated[Person, Depends(requires(Right.VIEW))]


def reads(request: Request, person: SignedIn) -> Person:
    """A dependency: the person who asks, if they may read of the model or release that the address names.

    Where it names none, of any model: what is shown must then be asked of `sees`. Raises 401 or 403.
    """
    person.needs_to_read(_model_of(request))
    return person


Reader = Annotated[Person, Depends(reads)]


def csrf_token(user_name: str, key: str, nonce: str | None = None) -> str:
    """What a browser of this person must send back. Only the server's `key` makes one."""
    nonce = nonce or secrets.token_urlsafe(16)
    signature = hmac.new(key.encode(), f"slipway-csrf\n{nonce}\n{user_name}".encode(), hashlib.sha256)
    return f"{nonce}.{signature.hexdigest()}"


def give_csrf_token(request: Request, response: Response, person: Person) -> str:
    """The person's token, put into a cookie unless the browser has a good one."""
    token, key = request.cookies.get(CSRF_COOKIE, ""), _key(request)
    if not _is_token_of(person.name, token, key):
        token = csrf_token(person.name, key)
        path = f"{request.scope.get('root_path', '')}/" if request.scope.get("root_path") else "/"
        secure = request.url.scheme == "https"
        # The page's script has to read it, hence not httponly; it is worth nothing without the login.
        response.set_cookie(CSRF_COOKIE, token, path=path, samesite="strict", secure=secure)
    return token


def refuse_forged(request: Request, person: Person) -> None:
    """Raises 403 for a change asked for by a browser's cookie that does not carry the token of our page.

    A bearer token is sent on purpose, never by a browser on its own: it needs nothing else.
    """
    if request.method in _SAFE_METHODS or _has_bearer(request):
        return
    sent, kept = request.headers.get(CSRF_HEADER, ""), request.cookies.get(CSRF_COOKIE, "")
    same = hmac.compare_digest(sent.encode(), kept.encode())
    if not same or not _is_token_of(person.name, sent, _key(request)):
        raise HTTPException(
            403, f"this request did not come from Slipway's page: {CSRF_HEADER} is missing or wrong"
        )


def _key(request: Request) -> str:
    key: str = request.app.state.host.secret_key()
    return key


def _is_token_of(user_name: str, token: str, key: str) -> bool:
    nonce, _, signature = token.partition(".")
    made = csrf_token(user_name, key, nonce)
    return bool(signature) and hmac.compare_digest(made.encode(), token.encode())


def _has_bearer(request: Request) -> bool:
    """A host that takes both lets such a token count and not the cookie."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and bool(credentials.strip())


def _model_of(request: Request) -> str | None:
    """The model that the path or the query names, be it by a release's id."""
    parts = request.path_params
    if release := parts.get("release_id"):
        return str(release).rpartition("-v")[0] or None
    if model := parts.get("model"):
        return str(model)
    return request.query_params.get("model") if request.url.path.endswith(_ABOUT_ONE) else None
