"""A target that only remembers, for simulations and tests of what is above it."""

from __future__ import annotations

from threading import Lock

from model_store.types import Bundle
from serving.types import Deployment, DeploymentRef, Endpoint, Slot


class MemoryTarget:
    """`ServingTarget` in this process. Pods are ready at once unless `hold_back` says otherwise."""

    def __init__(self) -> None:
        self._deployed: dict[tuple[str, Slot], Deployment] = {}
        self._held_back: set[str] = set()
        self._next_port = 20_000
        self._lock = Lock()
        self.retired: list[Deployment] = []

    def deploy(self, bundle: Bundle, slot: Slot, *, replicas: int) -> Deployment:
        service = bundle.model.name
        with self._lock:
            standing = self._deployed.get((service, slot))
            if standing and (standing.bundle_id, len(standing.endpoints)) == (bundle.id, replicas):
                return standing
            if standing:
                self.retired.append(standing)
            endpoints = tuple(Endpoint("127.0.0.1", self._next_port + n) for n in range(replicas))
            self._next_port += replicas
            deployment = Deployment(DeploymentRef(service, slot, bundle.id, bundle.model.version), endpoints)
            self._deployed[service, slot] = deployment
            return deployment

    def hold_back(self, bundle_id: str) -> None:
        """Pods of this bundle do not become ready until `release`."""
        self._held_back.add(bundle_id)

    def release(self, bundle_id: str) -> None:
        self._held_back.discard(bundle_id)

    def is_ready(self, deployment: Deployment) -> bool:
        stands = self._deployed.get((deployment.service, deployment.slot)) == deployment
        return stands and deployment.bundle_id not in self._held_back

    def retire(self, deployment: Deployment) -> None:
        with self._lock:
            if self._deployed.get((deployment.service, deployment.slot)) == deployment:
                del self._deployed[deployment.service, deployment.slot]
                self.retired.append(deployment)

    def deployments(self, service: str) -> list[Deployment]:
        return [self._deployed[service, slot] for slot in Slot if (service, slot) in self._deployed]
