"""Slipway's own REST API (docs/api.md), as the commands use it: here, or from a pipeline elsewhere.

`SLIPWAY_URL` names another Airflow than this installation's; `SLIPWAY_TOKEN` is a bearer token, or
`SLIPWAY_USER` and `SLIPWAY_PASSWORD` an account. Without them the installation's own admin acts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from model_store.errors import Permanent, Retryable
from serving.credentials import credentials_of
from serving.home import Home

API = "/slipway/api/v1"


class ConflictAnswer(Permanent):
    """Somebody else was faster, or it is too late."""


class SlipwayApi:
    """A session. `Permanent` for what is refused, in the server's own words; `Retryable` while it is down."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client = client
        self._url = url

    def get(self, path: str, **query: Any) -> Any:
        given = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", path, params=given)

    def post(self, path: str, headers: Mapping[str, str] | None = None, **body: Any) -> Any:
        given = {name: value for name, value in body.items() if value is not None}
        return self._call("POST", path, json=given, headers=headers)

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            answer = self._client.request(method, API + path, **arguments)
        except httpx.HTTPError as error:
            raise does_not_answer(self._url, error) from error
        if answer.is_error:
            raise _problem(answer)
        return answer.json()


@contextmanager
def slipway_api(home: Home) -> Iterator[SlipwayApi]:
    """A session of whom the environment names. Raises `Retryable` while Airflow does not answer."""
    with signed_in(home) as client:
        yield SlipwayApi(client, str(client.base_url))


@contextmanager
def signed_in(home: Home) -> Iterator[httpx.Client]:
    """A client of Airflow with a bearer token."""
    url = (os.environ.get("SLIPWAY_URL") or home.airflow_url).rstrip("/")
    # What runs on this machine is asked without a proxy of the environment between.
    with httpx.Client(base_url=url, timeout=20, trust_env=url != home.airflow_url) as client:
        token = os.environ.get("SLIPWAY_TOKEN") or _token(client, home, url)
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


def _token(client: httpx.Client, home: Home, url: str) -> str:
    try:
        answer = client.post("/auth/token", json=_account(home, url))
    except httpx.HTTPError as error:
        raise does_not_answer(url, error) from error
    if answer.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.UNAUTHORIZED):
        raise Permanent(
            f"Airflow at {url} refuses this account", remedy="check SLIPWAY_USER and SLIPWAY_PASSWORD"
        )
    try:
        return str(answer.raise_for_status().json()["access_token"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise does_not_answer(url, error) from error


def _account(home: Home, url: str) -> dict[str, str]:
    user, password = os.environ.get("SLIPWAY_USER"), os.environ.get("SLIPWAY_PASSWORD")
    if user and password:
        return {"username": user, "password": password}
    if url != home.airflow_url:
        # This installation's password is nobody else's business.
        raise Permanent(f"nobody is signed in at {url}", remedy="set SLIPWAY_TOKEN, see docs/api.md")
    login = credentials_of(home)
    return {"username": login.airflow_user, "password": login.airflow_password}


def does_not_answer(url: str, error: Exception) -> Retryable:
    """Airflow is down, or it is something else that listens there."""
    return Retryable(
        f"Airflow at {url} does not answer ({type(error).__name__}: {error})",
        remedy="Start the stack with ./slipway up, or see ./slipway status.",
    )


def _problem(answer: httpx.Response) -> Permanent | Retryable:
    try:
        said = answer.json()
        detail, remedy = str(said["detail"]), str(said.get("remedy") or "see docs/api.md")
    except (ValueError, KeyError, TypeError):
        detail, remedy = f"{answer.status_code}: {answer.text[:200]}", "is this a Slipway's Airflow?"
    if answer.status_code == httpx.codes.CONFLICT:
        return ConflictAnswer(detail, remedy=remedy)
    if answer.is_server_error:
        return Retryable(detail, remedy=remedy)
    return Permanent(detail, remedy=remedy)
