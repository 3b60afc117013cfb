"""What the launcher was asked for and has not been told to end: a file for each occupied slot."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from model_store.durable import write_file
from model_store.errors import Permanent
from serving.platforms.docker.wanted import PodsRequest, Ref


class DeploymentRecord(BaseModel):
    """`addresses`: one for each pod, as long as the record is. `served`: those that were seen ready."""

    model_config = ConfigDict(frozen=True)

    wanted: PodsRequest
    addresses: tuple[str, ...]
    served: tuple[str, ...] = ()

    def scaled(self, wanted: PodsRequest, addresses: tuple[str, ...]) -> Self:
        served = tuple(each for each in self.served if each in addresses)
        return self.model_copy(update={"wanted": wanted, "addresses": addresses, "served": served})

    def having_served(self, address: str) -> Self:
        return self.model_copy(update={"served": tuple(sorted({*self.served, address}))})


class DeploymentRecords:
    """Of one installation, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def all(self) -> list[DeploymentRecord]:
        """By service and slot."""
        found = [_read(path) for path in self._folder.glob("*.json")]
        return sorted(found, key=lambda record: (record.wanted.ref.service, record.wanted.ref.slot))

    def find(self, ref: Ref) -> DeploymentRecord | None:
        """What stands in the slot of `ref`, whatever it is."""
        path = self._path(ref)
        return _read(path) if path.exists() else None

    def write(self, record: DeploymentRecord) -> None:
        write_file(self._path(record.wanted.ref), record.model_dump_json(indent=1).encode())

    def remove(self, ref: Ref) -> None:
        self._path(ref).unlink(missing_ok=True)

    def _path(self, ref: Ref) -> Path:
        """A service's name may be no file's."""
        name = hashlib.sha256(ref.service.encode()).hexdigest()[:16]
        return self._folder / f"{name}-{ref.slot}.json"


def _read(path: Path) -> DeploymentRecord:
    try:
        return DeploymentRecord.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise Permanent(
            f"the launcher's {path} is not readable: {error}",
            remedy="delete it, and release the model again",
        ) from error
