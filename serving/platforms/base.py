"""The platform port: where pods run. It never touches traffic.

What runs has an identity (`DeploymentRef`); where it runs is an answer of the moment. A cluster accepts what
it is asked and does it when it can, moves pods and loses them. So nothing here waits, and nothing here
promises an address: whoever needs pods looks at `status` again and again, and follows its endpoints.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from model_store.errors import Permanent
from model_store.release_spec import ReleaseSpec
from model_store.types import Bundle, TargetName
from serving.types import DeploymentRef, Endpoint


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """What is wanted of a deployment: this bundle, in so many pods."""

    bundle: Bundle
    replicas: int


class DeploymentPhase(StrEnum):
    """How far what is wanted has come. Only `FAILED` does not heal by itself."""

    NOT_FOUND = "not found"
    IN_PROGRESS = "in progress"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """How a deployment is now.

    `READY`: as many pods as wanted answer, the bundle's warm rows too. `reason` says in a person's words what
    is missing otherwise, and `remedy` what that person can do. `endpoints` are of the pods that may be given
    traffic: they were ready and warm, and are at this address or come back to it. One that is down for a
    moment may be among them, for the gateway goes round it; one that moved or is gone is not.
    """

    phase: DeploymentPhase
    reason: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    remedy: str = ""

    @property
    def is_ready(self) -> bool:
        return self.phase is DeploymentPhase.READY


class Platform(Protocol):
    """Implementations pass `tests/contract/platform_contract.py`.

    Every call may be repeated, and raises `Retryable` while the platform cannot be reached.
    """

    def apply(self, ref: DeploymentRef, want: DeploymentSpec) -> None:
        """Have `want` run, and end whatever else stands in the slot of `ref`. Returns once it is accepted.

        Raises `Permanent` for what can never run here.
        """
        ...

    def status(self, ref: DeploymentRef) -> DeploymentStatus:
        """How it is now. What was never asked for, replaced or retired is `NOT_FOUND`, which is no error."""
        ...

    def retire(self, ref: DeploymentRef) -> None:
        """Drain and end the pods. Retiring what is gone is no error, and leaves its successor alone."""
        ...

    def deployments(self, service: str | None = None) -> list[DeploymentRef]:
        """What was asked for and not retired, of one service or of all, by service and slot."""
        ...


@runtime_checkable
class Refusing(Protocol):
    """A platform whose pods cannot run every engine: what none would serve is no candidate of a build."""

    def refusal(self, serving: Mapping[str, Any]) -> Permanent | None:
        """Why a bundle that says so of how it is served can never run here; None where it can."""
        ...


@runtime_checkable
class Followed(Protocol):
    """A platform that can say at once that something happened. One that cannot is looked at as often."""

    def follow(self, changed: Callable[[str], None], ending: threading.Event) -> None:
        """Call `changed` with a service of which something may be otherwise now, from threads of the
        platform's own, until the event is set. Returns at once."""
        ...


def refusal_of(platform: Platform, spec: ReleaseSpec, engine: TargetName) -> Permanent | None:
    """Why pods where the spec wants them can run nothing by this engine, where the platform knows."""
    if not isinstance(platform, Refusing):
        return None
    return platform.refusal({**spec.serving.model_dump(mode="json"), "runtime": engine})
