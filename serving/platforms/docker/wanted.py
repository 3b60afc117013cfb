"""What the launcher may be asked for, and what it answers. Pure.

Everything in it is a name or a number that is checked here: whoever may ask the launcher can make Docker do
nothing but run pods of the installation's image on bundles of its store.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from serving.types import DeploymentRef, Slot

# Where a pod listens, at the address of its container.
POD_PORT = 8080
_MEBI = 2**20
# What a pod needs beside its model: the interpreter, numpy and onnxruntime.
_BASE_MEBI = 512
# A model is read, optimised and kept: for a moment there is more than one of it.
_TIMES_THE_BUNDLE = 3

# Names a folder, so it holds no way out of one.
BundleId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
Service = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Ref(_Message):
    """`DeploymentRef` on its way."""

    service: Service
    slot: Annotated[Slot, Field(strict=False)]
    bundle_id: BundleId
    version: Annotated[int, Field(ge=0)]

    @classmethod
    def of(cls, ref: DeploymentRef) -> Ref:
        return cls(service=ref.service, slot=ref.slot, bundle_id=ref.bundle_id, version=ref.version)

    @property
    def deployment(self) -> DeploymentRef:
        return DeploymentRef(self.service, self.slot, self.bundle_id, self.version)


class PodsRequest(_Message):
    """Pods of one deployment. `faults` is the test switch SLIPWAY_FAULTS. `trusted`: the public key of who
    signed the bundle, for the pod to verify with.
    """

    ref: Ref
    replicas: Annotated[int, Field(ge=1, le=64)]
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    bundle_bytes: Annotated[int, Field(ge=0)] = 0
    shared_cache: bool = False
    request_log: bool = False
    faults: Annotated[str, Field(max_length=2000)] = ""
    trusted: Annotated[str, Field(max_length=4000)] = ""

    def memory_mebi(self) -> int:
        """What one pod may have of memory, if the installation does not say it."""
        return _BASE_MEBI + math.ceil(_TIMES_THE_BUNDLE * self.bundle_bytes / _MEBI)


class Death(_Message):
    """How a pod's container ended last, and how often it has. `words`: the last lines that it wrote."""

    times: int
    exit_code: int
    was_out_of_memory: bool
    words: tuple[str, ...] = ()


class PodContainer(_Message):
    """One container. `state` is Docker's: created, running, restarting, exited ..."""

    number: int
    address: str
    state: str
    memory_mebi: int
    death: Death | None = None


class Standing(_Message):
    """What was asked for and how it is. `served`: the addresses that were seen ready.

    `problem` and `remedy`: why pods cannot be made, in words; `is_final`: and no waiting heals it.
    """

    ref: Ref
    replicas: int
    served: tuple[str, ...]
    pods: tuple[PodContainer, ...]
    problem: str = ""
    remedy: str = ""
    is_final: bool = False


class Listing(_Message):
    standing: tuple[Standing, ...]


class ReadyPod(_Message):
    """A pod that was seen ready."""

    ref: Ref
    address: str
