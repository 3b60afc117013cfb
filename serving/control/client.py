"""Asking the controller to move traffic: the only way for Airflow's tasks, the page, alerts and `./slipway`.

Where it is down, `./slipway rollback` alone may return traffic by itself, which is safe from any hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serving.control.controller_link import ControllerDown, ControllerLink
from serving.control.rollbacks import RollbackRequest
from serving.control.rollout.control import ControlRequest
from serving.control.rollout.journal import state_from_json
from serving.control.rollout.plan import RolloutState
from serving.control.traffic import RollbackPhase, RollbackProgress, RolloutPhase, RolloutProgress
from serving.home import Home
from serving.types import Route

__all__ = ["ControllerClient", "ControllerDown"]


class ControllerClient:
    """`serving.control.traffic.TrafficControl` over HTTP. Opens nothing before it is asked."""

    def __init__(self, home: Home) -> None:
        self._asked = ControllerLink(home).ask

    def begin(self, release_id: str, bundle_id: str) -> RolloutProgress:
        said = {"release": release_id, "bundle": bundle_id}
        return _of_rollout(self._asked("POST", "/v1/rollouts", said))

    def progress(self, release_ids: Sequence[str]) -> dict[str, RolloutProgress]:
        told = self._asked("POST", "/v1/rollouts-progress", {"releases": list(release_ids)})
        return {one["release_id"]: _of_rollout(one) for one in told}

    def end(self, release_id: str, *, reason: str) -> RolloutProgress:
        return _of_rollout(self._asked("POST", f"/v1/rollouts/{release_id}/end", {"reason": reason}))

    def read(self, release_id: str) -> RolloutState:
        return state_from_json(self._asked("GET", f"/v1/rollouts/{release_id}"))

    def roll_back(self, release_id: str, *, reason: str) -> RolloutState:
        return self._act(release_id, "rollback", {"reason": reason})

    def finish_watch(self, release_id: str, *, reason: str = "the watch was ended early") -> RolloutState:
        return self._act(release_id, "finish", {"reason": reason})

    def withdraw(self, release_id: str) -> RolloutState:
        return self._act(release_id, "withdraw", {})

    def pause(self, release_id: str, request: ControlRequest) -> RolloutState:
        return self._act(release_id, "pause", asdict(request))

    def resume(self, release_id: str, request: ControlRequest) -> RolloutState:
        return self._act(release_id, "resume", asdict(request))

    def skip_hold(self, release_id: str, request: ControlRequest) -> RolloutState:
        return self._act(release_id, "skip", asdict(request))

    def roll_model_back(self, request: RollbackRequest) -> RollbackProgress:
        said = {**asdict(request), "at": request.at.isoformat()}
        return _progress(self._asked("POST", f"/v1/models/{request.model}/rollbacks", said))

    def rollback(self, rollback_id: str) -> RollbackProgress:
        return _progress(self._asked("GET", f"/v1/rollbacks/{rollback_id}"))

    def adopt(self, model: str, *, by: str, reason: str) -> Route:
        path = f"/v1/routes/{quote(model, safe='')}/adopt"
        return Route.from_json(self._asked("POST", path, {"by": by, "reason": reason}))

    def back_up(self, target: Path) -> dict[str, Any]:
        """Let the controller write a copy of its ledger there, on its machine. Returns the trail's head."""
        head: dict[str, Any] = self._asked("POST", "/v1/ledger/backup", {"target": str(target)}, seconds=3600)
        return head

    def verify_audit(self, number: int | None, hash: str) -> dict[str, Any]:
        """The audit trail's head, computed anew. Raises `BrokenChain`."""
        known = {"number": number, "hash": hash} if number is not None else {}
        head: dict[str, Any] = self._asked("POST", "/v1/ledger/verify", known, seconds=3600)
        return head

    def is_there(self) -> None:
        """Raises `ControllerDown` unless it answers."""
        self._asked("GET", "/v1/room")

    def _act(self, release_id: str, name: str, said: dict[str, Any]) -> RolloutState:
        return state_from_json(self._asked("POST", f"/v1/rollouts/{release_id}/{name}", said))


def _of_rollout(told: dict[str, Any]) -> RolloutProgress:
    return RolloutProgress(**{**told, "phase": RolloutPhase(told["phase"])})


def _progress(told: dict[str, Any]) -> RollbackProgress:
    return RollbackProgress(**{**told, "phase": RollbackPhase(told["phase"])})
