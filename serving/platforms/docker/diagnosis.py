"""How a deployment is, in a sentence: of what the launcher tells and which pods answer. Pure."""

from __future__ import annotations

from collections.abc import Set

from serving.platforms.base import DeploymentPhase, DeploymentStatus
from serving.platforms.docker.wanted import POD_PORT, Death, PodContainer, Standing
from serving.types import Endpoint

# Of `python -m serving.pod`: another start would end the same way.
_FINAL_EXITS = (1, 2)
# Starts that failed one after the other, whatever of, are no chance any more.
_FAILED_STARTS = 3


def status_of(found: Standing, ready: Set[str]) -> DeploymentStatus:
    """`ready`: the addresses that answer now. A pod that was seen ready comes back to its address."""
    endpoints = tuple(Endpoint(address, POD_PORT) for address in sorted({*found.served, *ready}))
    if len(ready) >= found.replicas:
        return DeploymentStatus(DeploymentPhase.READY, endpoints=endpoints)
    reason, remedy, is_final = _trouble(found, ready)
    has_served = bool(found.served or ready)
    phase = DeploymentPhase.FAILED if is_final and not has_served else DeploymentPhase.IN_PROGRESS
    told = f"{len(ready)} of {found.replicas} pods are ready; {reason}"
    return DeploymentStatus(phase, told, endpoints, remedy)


def _trouble(found: Standing, ready: Set[str]) -> tuple[str, str, bool]:
    if found.problem:
        return found.problem, found.remedy, found.is_final
    missing = [pod for pod in found.pods if pod.address not in ready]
    for pod in missing:
        if pod.death:
            return _died(pod, pod.death)
    if len(found.pods) < found.replicas:
        return f"{found.replicas - len(found.pods)} are being made", "wait", False
    at = ", ".join(f"{pod.address} ({pod.state})" for pod in missing)
    return (
        f"loading and answering their warm rows: {at}",
        "wait; it has the spec's ready_timeout_seconds",
        False,
    )


def _died(pod: PodContainer, death: Death) -> tuple[str, str, bool]:
    often = "" if death.times < 2 else f" {death.times} times"
    if death.was_out_of_memory:
        return (
            f"pod {pod.number} was killed{often} because it needed more memory than its limit, "
            f"{pod.memory_mebi} MiB",
            "raise SLIPWAY_POD_MEMORY_MB of the launcher",
            True,
        )
    said = "\n  | ".join(["", *death.words])
    is_final = death.exit_code in _FINAL_EXITS or death.times >= _FAILED_STARTS
    return (
        f"pod {pod.number} ended{often} with exit code {death.exit_code}{said}",
        f"read its log: docker logs, of the container at {pod.address}",
        is_final,
    )
