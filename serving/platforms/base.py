"""The deployment port: start, watch and end pods. It never touches traffic."""

from __future__ import annotations

from typing import Protocol

from model_store.types import Bundle
from serving.types import Deployment, Slot


class ServingTarget(Protocol):
    """Implementations pass `tests/contract/target_contract.py`. All calls are idempotent."""

    def deploy(self, bundle: Bundle, slot: Slot, *, replicas: int) -> Deployment:
        """Start `replicas` pods serving `bundle` in `slot`, ending whatever stood there. Returns at once."""
        ...

    def is_ready(self, deployment: Deployment) -> bool:
        """Whether every endpoint answers `/v2/health/ready` with 200."""
        ...

    def retire(self, deployment: Deployment) -> None:
        """Drain and end the pods. Retiring what is already gone is no error."""
        ...

    def deployments(self, service: str) -> list[Deployment]:
        """What stands now, one per occupied slot."""
        ...
