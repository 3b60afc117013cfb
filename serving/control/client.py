"""Asking the controller to move traffic: the only way for Airflow's tasks, the page, alerts and `./slipway`.

Where it is down, `./slipway rollback` alone may return traffic by itself, which is safe from any hand.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import httpx
import orjson

from model_store.errors import Permanent, Retryable
from serving.control import wire_errors
from serving.control.rollbacks import RollbackRequest
from serving.control.rollout.journal import state_from_json
from serving.control.rollout.plan import RolloutState
from serving.control.traffic import RollbackPhase, RollbackProgress
from serving.credentials import controller_token
from serving.home import Home

# It answers in milliseconds; a start asks a platform, and a rollback may wait for a disk.
TIMEOUT = httpx.Timeout(15.0, connect=2.0)


class ControllerDown(Retryable):
    """It does not answer: weights stay as they are, and nothing begins."""


class ControllerClient:
    """`serving.control.traffic.TrafficControl` over HTTP. Opens nothing before it is asked."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def start(self, release_id: str, deployment_id: str) -> RolloutState:
        said = {"release": release_id, "deployment": deployment_id}
        return state_from_json(self._asked("POST", "/v1/rollouts", said))

    def read(self, release_id: str) -> RolloutState:
        return state_from_json(self._asked("GET", f"/v1/rollouts/{release_id}"))

    def roll_back(self, release_id: str, *, reason: str) -> RolloutState:
        return self._act(release_id, "rollback", {"reason": reason})

    def proven(self, release_id: str, *, reason: str) -> RolloutState:
        return self._act(release_id, "proven", {"reason": reason})

    def finish_watch(self, release_id: str, *, reason: str = "the watch was ended early") -> RolloutState:
        return self._act(release_id, "finish", {"reason": reason})

    def withdraw(self, release_id: str) -> RolloutState:
        return self._act(release_id, "withdraw", {})

    def roll_model_back(self, request: RollbackRequest) -> RollbackProgress:
        said = {**asdict(request), "at": request.at.isoformat()}
        return _progress(self._asked("POST", f"/v1/models/{request.model}/rollbacks", said))

    def rollback(self, rollback_id: str) -> RollbackProgress:
        return _progress(self._asked("GET", f"/v1/rollbacks/{rollback_id}"))

    def _act(self, release_id: str, name: str, said: dict[str, Any]) -> RolloutState:
        return state_from_json(self._asked("POST", f"/v1/rollouts/{release_id}/{name}", said))

    def _asked(self, method: str, path: str, said: dict[str, Any] | None = None) -> Any:
        url = self._home.controller_url + path
        headers = {"authorization": f"Bearer {controller_token(self._home)}"}
        content = None if said is None else orjson.dumps(said)
        try:
            # Its own, without environment: a proxy for the world outside must not see what is said here.
            with httpx.Client(timeout=TIMEOUT, trust_env=False, verify=False) as client:
                answer = client.request(method, url, content=content, headers=headers)
        except httpx.HTTPError as problem:
            raise self._down(f"{type(problem).__name__}: {problem}") from problem
        return self._understood(answer)

    def _understood(self, answer: httpx.Response) -> Any:
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise Permanent(
                f"the controller at {self._home.controller_url} refuses {self._home.controller_token}",
                remedy="is it another installation's? Start this one's: `./slipway up`",
            )
        try:
            told = orjson.loads(answer.content)
            if answer.is_success:
                return told
            error = wire_errors.from_json(told)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as problem:
            raise self._down(f"something else answers there: {answer.status_code}") from problem
        raise error

    def _down(self, why: str) -> ControllerDown:
        return ControllerDown(
            f"the controller does not answer at {self._home.controller_url} ({why})",
            remedy="`./slipway up` starts it; `./slipway rollback MODEL` returns traffic without it",
            delay_seconds=2,
        )


def _progress(told: dict[str, Any]) -> RollbackProgress:
    return RollbackProgress(**{**told, "phase": RollbackPhase(told["phase"])})
