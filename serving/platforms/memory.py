"""A platform that only remembers, for simulations and tests of what is above it."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

from serving.platforms.base import DeploymentPhase, DeploymentSpec, DeploymentStatus
from serving.types import DeploymentRef, Endpoint, Slot


@dataclass(frozen=True, slots=True)
class Placed:
    """What stands in a slot."""

    ref: DeploymentRef
    want: DeploymentSpec
    endpoints: tuple[Endpoint, ...]


class MemoryPlatform:
    """`Platform` in this process. Pods are ready at once unless a test says otherwise."""

    def __init__(self) -> None:
        self._placed: dict[tuple[str, Slot], Placed] = {}
        self._held_back: set[str] = set()
        self._failing: dict[str, str] = {}
        self._next_port = 20_000
        self._lock = Lock()
        self.retired: list[DeploymentRef] = []

    def apply(self, ref: DeploymentRef, want: DeploymentSpec) -> None:
        with self._lock:
            placed = self._placed.get((ref.service, ref.slot))
            if placed and (placed.ref, placed.want.replicas) == (ref, want.replicas):
                return
            if placed and placed.ref != ref:
                self.retired.append(placed.ref)
            self._placed[ref.service, ref.slot] = Placed(ref, want, self._addresses(want.replicas))

    def hold_back(self, bundle_id: str) -> None:
        """Pods of this bundle do not become ready until `release`."""
        self._held_back.add(bundle_id)

    def release(self, bundle_id: str) -> None:
        """Pods of this bundle become ready from now on, whatever kept them from it."""
        self._held_back.discard(bundle_id)
        self._failing.pop(bundle_id, None)

    def fail(self, bundle_id: str, reason: str) -> None:
        """Pods of this bundle end at start, and will not do otherwise."""
        self._failing[bundle_id] = reason

    def status(self, ref: DeploymentRef) -> DeploymentStatus:
        placed = self._placed.get((ref.service, ref.slot))
        if placed is None or placed.ref != ref:
            return DeploymentStatus(DeploymentPhase.NOT_FOUND, f"{ref.id} does not stand here")
        if reason := self._failing.get(ref.bundle_id):
            return DeploymentStatus(DeploymentPhase.FAILED, reason)
        if ref.bundle_id in self._held_back:
            return DeploymentStatus(DeploymentPhase.IN_PROGRESS, f"the pods of {ref.id} are held back")
        return DeploymentStatus(DeploymentPhase.READY, endpoints=placed.endpoints)

    def retire(self, ref: DeploymentRef) -> None:
        with self._lock:
            placed = self._placed.get((ref.service, ref.slot))
            if placed and placed.ref == ref:
                del self._placed[ref.service, ref.slot]
                self.retired.append(ref)

    def deployments(self, service: str | None = None) -> list[DeploymentRef]:
        return [placed.ref for (name, _), placed in sorted(self._placed.items()) if service in (None, name)]

    def _addresses(self, count: int) -> tuple[Endpoint, ...]:
        first, self._next_port = self._next_port, self._next_port + count
        return tuple(Endpoint("127.0.0.1", port) for port in range(first, first + count))
