"""The port: asks the launcher, and asks pods themselves whether they are ready."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel

from model_store.errors import Permanent, Retryable
from model_store.storage.place import trusted_in
from serving.home import Home
from serving.platforms.base import DeploymentPhase, DeploymentSpec, DeploymentStatus
from serving.platforms.docker.diagnosis import status_of
from serving.platforms.docker.wanted import (
    POD_PORT,
    Listing,
    PodContainer,
    PodsRequest,
    ReadyPod,
    Ref,
    Standing,
)
from serving.types import DeploymentRef

URL, TOKEN_FILE = "SLIPWAY_LAUNCHER_URL", "SLIPWAY_LAUNCHER_TOKEN_FILE"
# Of the image (`serving.platforms.docker.engine`).
_TIMEOUT = httpx.Timeout(20.0, connect=3.0)
_READY_SECONDS = 2.0
_MEBI_LIMIT = 2**40


class DockerPlatform:
    """`Platform` in the Docker Engine of one launcher. The launcher alone remembers what stands."""

    def __init__(self, home: Home, environ: Mapping[str, str] = os.environ) -> None:
        self._home, self._environ = home, environ

    @cached_property
    def _client(self) -> httpx.Client:
        """One for the launcher and all pods. Of this installation's own networks: no proxy of the environment
        may come between."""
        client = httpx.Client(timeout=_TIMEOUT, trust_env=False)
        weakref.finalize(self, client.close)
        return client

    def apply(self, ref: DeploymentRef, want: DeploymentSpec) -> None:
        self._ask("/apply", self._wanted(ref, want))

    def status(self, ref: DeploymentRef) -> DeploymentStatus:
        """Notes which pods were seen ready: from then on they are endpoints, as they keep their addresses."""
        found = next((each for each in self._listing() if each.ref.deployment == ref), None)
        if found is None:
            return DeploymentStatus(
                DeploymentPhase.NOT_FOUND, f"the launcher was not asked for {ref.id}, or it ended"
            )
        ready = {pod.address for pod in found.pods if pod.state == "running" and self._is_ready(pod)}
        for address in sorted(ready - {*found.served}):
            self._ask("/served", ReadyPod(ref=found.ref, address=address))
        return status_of(found, ready)

    def retire(self, ref: DeploymentRef) -> None:
        self._ask("/retire", Ref.of(ref))

    def deployments(self, service: str | None = None) -> list[DeploymentRef]:
        found = [each.ref.deployment for each in self._listing()]
        return [ref for ref in found if service in (None, ref.service)]

    def refusal(self, serving: Mapping[str, Any]) -> Permanent | None:
        """Of a model that is served as it was logged."""
        if serving.get("runtime") != "python":
            return None
        return Permanent(
            "a model that is served as it was logged makes its own Python; a container has its image's",
            remedy="convert it to ONNX, or release it where pods are processes (`target: local`)",
        )

    def _is_ready(self, pod: PodContainer) -> bool:
        url = f"http://{pod.address}:{POD_PORT}/v2/health/ready"
        try:
            return self._client.get(url, timeout=_READY_SECONDS).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def _wanted(self, ref: DeploymentRef, want: DeploymentSpec) -> PodsRequest:
        manifest = _manifest(want.bundle.path)
        if (refusal := self.refusal({"runtime": manifest.get("platform")})) is not None:
            raise refusal
        serving: dict[str, Any] = manifest.get("serving") or {}
        records = bool(serving.get("request_log"))
        if records:
            self._home.requests.mkdir(parents=True, exist_ok=True)
        trusted = trusted_in(self._home.store, self._environ)
        files = (file for file in want.bundle.path.rglob("*") if file.is_file())
        return PodsRequest(
            ref=Ref.of(ref),
            replicas=want.replicas,
            threads=int(serving.get("threads") or 1),
            bundle_bytes=min(sum(file.stat().st_size for file in files), _MEBI_LIMIT),
            shared_cache=bool((serving.get("cache") or {}).get("shared")),
            request_log=records,
            faults=_faults(self._home, self._environ),
            trusted=trusted.of_signer(str(manifest.get("signature") or "")).written(),
        )

    def _listing(self) -> tuple[Standing, ...]:
        return Listing.model_validate_json(self._request("GET", "/pods").content).standing

    def _ask(self, path: str, message: BaseModel) -> None:
        self._request("POST", path, message.model_dump_json())

    def _request(self, method: str, path: str, body: str | None = None) -> httpx.Response:
        url, shown = self._url(), {"authorization": f"Bearer {self._token()}"}
        try:
            answer = self._client.request(method, url + path, content=body, headers=shown)
        except httpx.HTTPError as error:
            raise Retryable(
                f"the launcher of pods does not answer at {url}: {error!r}",
                remedy="docker compose up --detach launcher; pods that run go on without it",
            ) from error
        if answer.is_success:
            return answer
        raise _refusal(answer)

    def _url(self) -> str:
        if not (url := self._environ.get(URL, "").rstrip("/")):
            raise Permanent(
                "no launcher of pods is named", remedy=f"set {URL} (docs/docker.md), or use another platform"
            )
        return url

    def _token(self) -> str:
        path = Path(self._environ.get(TOKEN_FILE) or self._home.root / "launcher-token")
        try:
            return path.read_text().strip()
        except OSError as error:
            raise Permanent(
                f"the launcher's token cannot be read: {error}", remedy=f"name its file in {TOKEN_FILE}"
            ) from error


def faults_file(home: Home) -> Path:
    """What SLIPWAY_FAULTS would say, for a demo that plays where nobody set it. Usually not there."""
    return home.root / "faults"


def _faults(home: Home, environ: Mapping[str, str]) -> str:
    path = faults_file(home)
    return environ.get("SLIPWAY_FAULTS") or (path.read_text().strip() if path.exists() else "")


def _refusal(answer: httpx.Response) -> Exception:
    try:
        said = answer.json()
    except ValueError:
        said = {}
    problem = f"the launcher of pods refuses: {said.get('problem') or answer.text[:300]}"
    if answer.status_code >= 500:
        return Retryable(problem, remedy="look at its log: docker compose logs launcher")
    return Permanent(problem, remedy=said.get("remedy") or "release the model again with the present Slipway")


def _manifest(bundle: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((bundle / "manifest.json").read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise Permanent(
            f"{bundle} is not a readable bundle: {error!r}",
            remedy="Publish it again: release the version anew.",
        ) from error
