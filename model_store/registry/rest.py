"""HTTP to an MLflow server: its REST API 2.0, with failures as `Retryable` or `Permanent`.

Not `mlflow.MlflowClient`: importing it takes four seconds of CPU, which every task of a release would spend
(docs/decisions/0010-mlflow-over-rest.md). Protocol: mlflow.org/docs/latest/rest-api.html.
"""

from __future__ import annotations

import ipaddress
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from model_store.errors import Permanent, Retryable

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"

# What people's browsers find MLflow at, where that is not what programs ask.
MLFLOW_BASE_URL = "SLIPWAY_MLFLOW_BASE_URL"

# Long enough for SQLite under load, short enough that a release says "MLflow is down" in seconds.
TIMEOUT = httpx.Timeout(15.0, connect=3.0)
RETRY_AFTER_SECONDS = 5.0

Json = dict[str, Any]


class RegistryUnavailable(Retryable):
    """MLflow does not answer, or answers that it cannot now."""


class RegistryRefused(Permanent):
    """MLflow understood the request and will not do it. `code` is MLflow's own name for why."""

    def __init__(self, problem: str, *, remedy: str, code: str) -> None:
        super().__init__(problem, remedy=remedy)
        self.code = code


class Rest:
    """One server; paths are below `API`. Every method raises `RegistryUnavailable` or `RegistryRefused`."""

    def __init__(self, url: str, *, timeout: httpx.Timeout = TIMEOUT) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout

    @property
    def page_url(self) -> str:
        """What links to its pages begin with."""
        return (os.environ.get(MLFLOW_BASE_URL) or self.url).rstrip("/")

    @cached_property
    def _client(self) -> httpx.Client:
        # Made when first used: most tasks that could ask the registry never do.
        client = httpx.Client(
            base_url=self.url,
            timeout=self._timeout,
            auth=_auth(os.environ),
            headers=_headers(os.environ),
            # A proxy meant for the internet must not get the requests to this machine.
            trust_env=not _is_local(self.url),
        )
        weakref.finalize(self, client.close)
        return client

    def get(self, path: str, /, **query: Any) -> Json:
        return self._json("GET", API + path, params=query)

    def post(self, path: str, /, **body: Any) -> Json:
        return self._json("POST", API + path, json=body)

    def patch(self, path: str, /, **body: Any) -> Json:
        return self._json("PATCH", API + path, json=body)

    def delete(self, path: str, /, **body: Any) -> Json:
        return self._json("DELETE", API + path, json=body)

    def list_artifacts(self, folder: str) -> list[Json]:
        """Entries of one folder of the server's artifact store: path (name only), is_dir, file_size."""
        files: list[Json] = self._json("GET", ARTIFACTS, params={"path": folder}).get("files", [])
        return files

    def download(self, artifact: str, target: Path) -> None:
        """One file of the server's artifact store."""
        with (
            self._translated(),
            self._client.stream("GET", f"{ARTIFACTS}/{quote(artifact)}") as response,
            target.open("wb") as file,
        ):
            if response.is_error:
                response.read()
            self._refuse_failure(response)
            for piece in response.iter_bytes():
                file.write(piece)

    def upload(self, source: Path, artifact: str) -> None:
        """One file into the server's artifact store, replacing what is there."""
        with self._translated(), source.open("rb") as file:
            self._refuse_failure(self._client.put(f"{ARTIFACTS}/{quote(artifact)}", content=file))

    def _json(self, method: str, path: str, **request: Any) -> Json:
        with self._translated():
            response = self._client.request(method, path, **request)
            self._refuse_failure(response)
            try:
                answer: Json = response.json()
            except ValueError as error:
                raise self._not_mlflow(response) from error
        return answer

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            raise RegistryUnavailable(
                f"MLflow at {self.url} does not answer: {type(error).__name__} {error}".rstrip(),
                remedy="start it (`slipway up`), or look at its log (`slipway status`)",
                delay_seconds=RETRY_AFTER_SECONDS,
            ) from error
        except httpx.InvalidURL as error:
            raise Permanent(
                f"`{self.url}` is not an address: {error}", remedy="use http://host:port"
            ) from error

    def _refuse_failure(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        said = _said(response)
        code, message = str(said.get("error_code", "")), str(said.get("message", response.text[:300]))
        if response.status_code >= 500 or response.status_code in (408, 429):
            raise RegistryUnavailable(
                f"MLflow at {self.url} failed with status {response.status_code}: {message}",
                remedy="it is tried again; if it goes on, look at MLflow's log",
                delay_seconds=RETRY_AFTER_SECONDS,
            )
        if response.status_code in (401, 403):
            raise RegistryRefused(
                f"MLflow at {self.url} does not let us in: {message or response.status_code}",
                remedy="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
                code=code,
            )
        if not said:
            raise self._not_mlflow(response)
        raise RegistryRefused(f"MLflow: {message}", remedy="correct the request", code=code)

    def _not_mlflow(self, response: httpx.Response) -> Permanent:
        return Permanent(
            f"{self.url} answered status {response.status_code} and no JSON: not an MLflow server?",
            remedy="check the port of MLflow (`slipway status`)",
        )


def _said(response: httpx.Response) -> Json:
    try:
        said = response.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _auth(environ: Mapping[str, str]) -> httpx.BasicAuth | None:
    """As MLflow's own client: the same variables."""
    user = environ.get("MLFLOW_TRACKING_USERNAME")
    return httpx.BasicAuth(user, environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None


def _headers(environ: Mapping[str, str]) -> dict[str, str]:
    token = environ.get("MLFLOW_TRACKING_TOKEN")
    has_user = "MLFLOW_TRACKING_USERNAME" in environ
    return {"Authorization": f"Bearer {token}"} if token and not has_user else {}


def _is_local(url: str) -> bool:
    try:
        host = httpx.URL(url).host
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except (ValueError, httpx.InvalidURL):
        return False
