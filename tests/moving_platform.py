"""A platform as clusters are: pods come late, get other addresses, are lost and come back."""

from __future__ import annotations

from dataclasses import dataclass, field

from serving.platforms.base import DeploymentPhase, DeploymentSpec, DeploymentStatus
from serving.types import DeploymentRef, Endpoint, Slot


@dataclass
class _Pods:
    """What was accepted, and what became of it. `late`: so many looks until pods start."""

    ref: DeploymentRef
    replicas: int
    late: int
    looks: int = 0
    lost: str = ""
    failed: str = ""
    endpoints: tuple[Endpoint, ...] = ()


@dataclass
class MovingPlatform:
    """`Platform` whose time is how often it was looked at.

    Pods start after `late_looks`. With `restless_looks`, ready ones are lost for one look after so many, and
    come back elsewhere. What ends does so `late_looks` later, too.
    """

    late_looks: int = 0
    restless_looks: int = 0
    _standing: dict[tuple[str, Slot], _Pods] = field(default_factory=dict)
    _ending: dict[DeploymentRef, int] = field(default_factory=dict)
    _unservable: dict[str, str] = field(default_factory=dict)
    _next_address: int = 1

    # what a test says
    def move(self, ref: DeploymentRef) -> tuple[Endpoint, ...]:
        """All pods of `ref` run elsewhere from now on."""
        pods = self._pods(ref)
        pods.lost, pods.endpoints = "", self._addresses(pods.replicas)
        return pods.endpoints

    def lose(self, ref: DeploymentRef, why: str) -> None:
        """All pods of `ref` are gone. They come back with `move`."""
        pods = self._pods(ref)
        pods.lost, pods.endpoints = why, ()

    def give_up(self, ref: DeploymentRef, why: str) -> None:
        """What cannot heal."""
        pods = self._pods(ref)
        pods.failed, pods.endpoints = why, ()

    def refuse(self, bundle_id: str, why: str) -> None:
        self._unservable[bundle_id] = why

    # Platform
    def apply(self, ref: DeploymentRef, want: DeploymentSpec) -> None:
        standing = self._standing.get((ref.service, ref.slot))
        if standing and (standing.ref, standing.replicas) == (ref, want.replicas):
            return
        if standing and standing.ref != ref:
            self._ending[standing.ref] = self.late_looks
        self._ending.pop(ref, None)
        failed = self._unservable.get(ref.bundle_id, "")
        pods = _Pods(ref, want.replicas, self.late_looks, failed=failed)
        self._standing[ref.service, ref.slot] = pods

    def status(self, ref: DeploymentRef) -> DeploymentStatus:
        standing = self._standing.get((ref.service, ref.slot))
        if standing is None or standing.ref != ref:
            return self._gone(ref)
        standing.looks += 1
        if standing.looks <= standing.late:
            return DeploymentStatus(DeploymentPhase.IN_PROGRESS, "0/3 nodes have room: Insufficient memory")
        if standing.failed:
            return DeploymentStatus(DeploymentPhase.FAILED, standing.failed)
        if self.restless_looks and standing.looks % self.restless_looks == 0:
            standing.endpoints = ()
            return DeploymentStatus(DeploymentPhase.IN_PROGRESS, "the node of its pods went away")
        if standing.lost:
            return DeploymentStatus(DeploymentPhase.IN_PROGRESS, standing.lost)
        standing.endpoints = standing.endpoints or self._addresses(standing.replicas)
        return DeploymentStatus(DeploymentPhase.READY, endpoints=standing.endpoints)

    def retire(self, ref: DeploymentRef) -> None:
        standing = self._standing.get((ref.service, ref.slot))
        if standing and standing.ref == ref:
            del self._standing[ref.service, ref.slot]
            self._ending[ref] = self.late_looks

    def deployments(self, service: str | None = None) -> list[DeploymentRef]:
        return [pods.ref for key, pods in sorted(self._standing.items()) if service in (None, key[0])]

    def _gone(self, ref: DeploymentRef) -> DeploymentStatus:
        looks = self._ending.get(ref, 0)
        if looks <= 0:
            return DeploymentStatus(DeploymentPhase.NOT_FOUND, f"there is no {ref.id}")
        self._ending[ref] = looks - 1
        return DeploymentStatus(DeploymentPhase.IN_PROGRESS, f"the pods of {ref.id} are ending")

    def _pods(self, ref: DeploymentRef) -> _Pods:
        return self._standing[ref.service, ref.slot]

    def _addresses(self, count: int) -> tuple[Endpoint, ...]:
        first, self._next_address = self._next_address, self._next_address + count
        return tuple(Endpoint(f"10.0.{n // 256}.{n % 256}", 8080) for n in range(first, first + count))
