"""Errors between the controller and who asks it: what they say, and the kinds that callers tell apart.

A kind that the other side does not know arrives as the `Permanent` or the `Retryable` that it is.
"""

from __future__ import annotations

from typing import Any

from model_store.errors import Permanent, Retryable, SlipwayError
from model_store.unwritable import DiskFull, Unwritable
from serving.control.release_deployment import PodsFail
from serving.control.rollbacks import AlreadyRolledBack
from serving.control.rollout.apply import NotRecorded
from serving.control.rollout.control import ActSuperseded
from serving.control.rollout.journal import StaleState, UnknownRelease
from serving.control.traffic import NotLeading
from serving.gateway.router.base import StaleRoute, UnknownService
from serving.ledger.base import BrokenChain, Fenced, StaleGeneration, Unknown, UnknownField, Unreachable
from serving.ledger.rows import Unstorable

_TOLD_APART: tuple[type[SlipwayError], ...] = (
    ActSuperseded,
    AlreadyRolledBack,
    BrokenChain,
    DiskFull,
    Fenced,
    NotLeading,
    NotRecorded,
    PodsFail,
    StaleGeneration,
    StaleRoute,
    StaleState,
    Unknown,
    UnknownField,
    UnknownRelease,
    UnknownService,
    Unreachable,
    Unstorable,
    Unwritable,
)
_BY_NAME = {kind.__name__: kind for kind in _TOLD_APART}


def to_json(error: SlipwayError) -> dict[str, Any]:
    """Plain values."""
    told: dict[str, Any] = {
        "error": type(error).__name__,
        "kind": "retryable" if isinstance(error, Retryable) else "permanent",
        "problem": error.problem,
        "remedy": error.remedy,
    }
    if isinstance(error, NotLeading):
        told["leader"] = error.leader
    return told | ({"delay_seconds": error.delay_seconds} if isinstance(error, Retryable) else {})


def from_json(told: dict[str, Any]) -> SlipwayError:
    """The inverse. Raises KeyError or TypeError for what is no error of the controller's."""
    base: type[SlipwayError] = Retryable if told["kind"] == "retryable" else Permanent
    error = _BY_NAME.get(told["error"], base)
    # Kinds have arguments of their own, and all of them end in these two.
    made = error.__new__(error)
    SlipwayError.__init__(made, str(told["problem"]), remedy=str(told["remedy"]))
    if isinstance(made, Retryable):
        made.delay_seconds = float(told.get("delay_seconds", 5.0))
    if isinstance(made, NotLeading):
        made.leader = str(told.get("leader", ""))
    return made
