"""What is written down of pods: one record per occupied slot, and one supervisord program made from it.

The record is `<home>/pods/<service>/<slot>.json`; the program file is in `<home>/pods/.programs/` (no model
name starts with a dot). A record is written before its program and removed after it: whatever runs has one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store import attestation
from model_store.durable import write_file
from model_store.errors import Permanent
from model_store.installation import name_here
from model_store.storage.place import trusted_in
from serving.home import Home
from serving.platforms import redis
from serving.sockets import make_private_folder, private_socket
from serving.supervision.component import Component
from serving.supervision.supervisor import ProgramState, launch_command, program_section
from serving.types import Deployment, Endpoint, Slot

# A pod goes on answering what it has accepted for this long after SIGTERM.
DRAIN_SECONDS = 15

GROUP = "pod-"

# Pods take theirs from `Ports.pods_from` and the next so many.
PORT_COUNT = 400


@dataclass(frozen=True, slots=True)
class PodRecord:
    """A deployment and what its pods are started with. `faults` is the test switch SLIPWAY_FAULTS.

    `warm_since`: when the youngest of the pods that answered the warm rows was started, seconds since 1970;
    0 before any did.
    """

    deployment: Deployment
    bundle: Path
    faults: str
    warm_since: int = 0

    @property
    def group(self) -> str:
        """The name of its supervisord program."""
        return group_of(self.deployment.service, self.deployment.slot)

    @property
    def replicas(self) -> int:
        return len(self.deployment.endpoints)


@dataclass(frozen=True, slots=True)
class PodRequirements:
    """What a bundle's spec asks of its surroundings: of the platform, and of the gateway."""

    shared_cache: bool
    api_keys: bool


def requirements_of(bundle: Path) -> PodRequirements:
    """Raises `Permanent` when the bundle's manifest is not readable."""
    try:
        serving = json.loads((bundle / "manifest.json").read_bytes()).get("serving", {})
        return PodRequirements(
            bool((serving.get("cache") or {}).get("shared")), bool(serving.get("api_keys"))
        )
    except (OSError, ValueError, AttributeError) as error:
        raise Permanent(
            f"{bundle} is not a readable bundle: {error!r}",
            remedy="Publish it again: release the version anew.",
        ) from error


def group_of(service: str, slot: Slot) -> str:
    return f"{GROUP}{service}-{slot}"


def read_record(home: Home, service: str, slot: Slot) -> PodRecord | None:
    """None when nothing was deployed there."""
    path = _record_path(home, service, slot)
    return _parse(path) if path.exists() else None


def records(home: Home) -> Iterator[PodRecord]:
    """Of all services and slots."""
    for path in sorted(home.pods.glob("*/*.json")):
        yield _parse(path)


def write_record(home: Home, record: PodRecord) -> None:
    plain = {
        "deployment": record.deployment.to_json(),
        "bundle": str(record.bundle),
        "faults": record.faults,
        "warm_since": record.warm_since,
    }
    path = _record_path(home, record.deployment.service, record.deployment.slot)
    write_file(path, json.dumps(plain, indent=1).encode())


def remove_record(home: Home, service: str, slot: Slot) -> None:
    _record_path(home, service, slot).unlink(missing_ok=True)


def port_candidates(home: Home) -> list[int]:
    """Ports that no record names, those used longest ago first.

    An address then means one deployment for a long time: a route, a counter or a connection that still
    names a retired pod never reaches its successor by mistake.
    """
    first, count = home.ports.pods_from, PORT_COUNT
    last = int(_last_port_path(home).read_text()) if _last_port_path(home).exists() else first - 1
    named = {endpoint.port for record in records(home) for endpoint in record.deployment.endpoints}
    in_turn = [first + (last + 1 - first + offset) % count for offset in range(count)]
    return [port for port in in_turn if port not in named]


def write_last_port(home: Home, port: int) -> None:
    write_file(_last_port_path(home), str(port).encode())


def _last_port_path(home: Home) -> Path:
    return home.pods / ".locks" / ".last-port"


def write_program(home: Home, record: PodRecord) -> None:
    """From now on supervisord starts these pods, also after it was restarted itself."""
    deployment = record.deployment
    command = launch_command("pod", deployment.service, deployment.slot)
    section = program_section(
        record.group,
        # supervisord replaces the expression by the number of the process.
        f"{command} %(process_num)d",
        home.logs / f"{record.group}-%(process_num)d.log",
        processes=record.replicas,
        # On a busy machine even a bundle that cannot be served takes seconds to fail.
        start_seconds=10,
        start_retries=3,
        stop_seconds=DRAIN_SECONDS + 5,
    )
    write_file(_program_path(home, record.group), section.encode())


def renew_programs(home: Home) -> None:
    """As this Slipway starts them: an earlier one, or one elsewhere, may have named what is here no more."""
    for record in records(home):
        if _program_path(home, record.group).exists():
            write_program(home, record)


def remove_program(home: Home, group: str) -> None:
    _program_path(home, group).unlink(missing_ok=True)


def pod(home: Home, service: str, slot: Slot, number: int) -> Component:
    """The process that the pod with this number becomes. Raises `Permanent` when there is no record."""
    record = read_record(home, service, slot)
    if record is None:
        raise Permanent(f"nothing is deployed in {service}'s slot {slot}", remedy="Release a version first.")
    endpoint, required = record.deployment.endpoints[number], requirements_of(record.bundle)
    argv = (
        *(sys.executable, "-m", name_here("serving.pod"), "--bundle", str(record.bundle)),
        *("--host", endpoint.host, "--port", str(endpoint.port)),
        *("--management", f"unix:{_management_socket(home, f'{record.group}-{number}')}"),
        *("--slot", slot.value, "--drain-seconds", str(DRAIN_SECONDS)),
        *("--request-log", str(home.requests)),
    )
    faults = {"SLIPWAY_FAULTS": record.faults} if record.faults else {}
    # It may hold a password, which arguments would show to everybody.
    shared = {redis.VARIABLE: redis.url_of(home) if required.shared_cache else ""}
    trusted = trusted_in(home.store)
    env = {attestation.VARIABLE: trusted.written(), **faults, **shared}
    return Component(f"{record.group}-{number}", argv, env=env)


def endpoint_of(home: Home, process: ProgramState) -> Endpoint | None:
    """Where the pod that is this process answers; None if nothing is written down of it."""
    service, _, slot = process.group.removeprefix(GROUP).rpartition("-")
    record = read_record(home, service, Slot(slot))
    number = int(process.name.rpartition("-")[2])
    return record.deployment.endpoints[number] if record and number < record.replicas else None


def is_pod(process: ProgramState) -> bool:
    return process.group.startswith(GROUP)


def _management_socket(home: Home, name: str) -> Path:
    """The pod's own, for whoever may read the home."""
    usual = home.run / f"{name}.sock"
    path = private_socket(usual, named_after=usual)
    make_private_folder(path)
    return path


def _record_path(home: Home, service: str, slot: Slot) -> Path:
    return home.pods / service / f"{slot}.json"


def _program_path(home: Home, group: str) -> Path:
    return home.pods / ".programs" / f"{group}.conf"


def _parse(path: Path) -> PodRecord:
    try:
        plain: dict[str, Any] = json.loads(path.read_text())
        # A Slipway of before `status` wrote no `warm_since`.
        deployment, warm_since = Deployment.from_json(plain["deployment"]), plain.get("warm_since", 0)
        return PodRecord(deployment, Path(plain["bundle"]), plain["faults"], warm_since)
    except (ValueError, KeyError, TypeError) as error:
        raise Permanent(
            f"{path} is not readable: {error!r}", remedy="Stop the stack, delete the file, release again."
        ) from error
