"""What Docker is told of pods: fixed options, and the few names and numbers that differ."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import DeviceRequest, EndpointConfig, LogConfig, Mount

from model_store import attestation
from model_store.errors import Permanent, Retryable
from serving.platforms.docker.wanted import POD_PORT, PodsRequest

DRAIN_SECONDS = 15
# Of deploy/pod.Dockerfile.
_USER = "10001:10001"
_PIDS = 256
# A pod's answers do not go through it; what fills it is a mistake.
_SCRATCH_BYTES = 256 * 2**20
_SAID_LINES = 5

_OURS = "slipway.installation"
_WHAT, _NUMBER = "slipway.pod", "slipway.number"


@dataclass(frozen=True, slots=True)
class DockerOptions:
    """What the installation says once for all pods.

    `bundles` and `requests`: where bundles lie and recorded requests go, as a folder of the host or
    `VOLUME:FOLDER IN IT`. `memory_mebi`: of each pod; None is by its bundle. `redis`: for shared caches.
    `gpus`: how many NVIDIA GPUs each pod sees, "all" or a number; none where it is empty.
    `recording_image`: of pods that write down requests; empty is `image`.
    """

    installation: str
    image: str
    network: str
    bundles: str
    requests: str = ""
    redis: str = ""
    memory_mebi: int | None = None
    gpus: str = ""
    recording_image: str = ""

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> DockerOptions:
        """From SLIPWAY_POD_*. Raises `Permanent` naming what is missing."""
        variables = {
            "installation": "SLIPWAY_INSTALLATION",
            "image": "SLIPWAY_POD_IMAGE",
            "network": "SLIPWAY_POD_NETWORK",
            "bundles": "SLIPWAY_POD_BUNDLES",
        }
        if missing := [name for name in variables.values() if not environ.get(name)]:
            raise Permanent(f"the launcher lacks {', '.join(missing)}", remedy="see docs/docker.md")
        memory = environ.get("SLIPWAY_POD_MEMORY_MB", "")
        if memory and not memory.isdecimal():
            raise Permanent(f"SLIPWAY_POD_MEMORY_MB={memory!r} is no number", remedy="give whole megabytes")
        gpus = environ.get("SLIPWAY_POD_GPUS", "")
        if gpus not in ("", "all") and not gpus.isdecimal():
            raise Permanent(f"SLIPWAY_POD_GPUS={gpus!r} is no number", remedy="give a number, or all")
        return cls(
            **{field: environ[name] for field, name in variables.items()},
            requests=environ.get("SLIPWAY_POD_REQUESTS", ""),
            redis=environ.get("SLIPWAY_REDIS", ""),
            memory_mebi=int(memory) if memory else None,
            gpus="" if gpus == "0" else gpus,
            recording_image=environ.get("SLIPWAY_RECORDING_POD_IMAGE", ""),
        )


@dataclass(frozen=True, slots=True)
class FoundContainer:
    """A container of ours. `what`: the digest of what it was made of; `ended`: exit code, memory."""

    id: str
    name: str
    what: str
    number: int
    address: str
    state: str
    restarts: int
    exit_code: int
    was_out_of_memory: bool


IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class NotMadeError(Exception):
    """Docker makes no such container: what it says, what a person can do, and whether waiting heals it."""

    def __init__(self, problem: str, remedy: str, *, is_final: bool) -> None:
        super().__init__(problem)
        self.problem, self.remedy, self.is_final = problem, remedy, is_final


class DockerEngine:
    """Pods of one installation in a Docker Engine. Raises `Retryable` while it does not answer."""

    def __init__(self, client: docker.DockerClient, options: DockerOptions) -> None:
        self._client, self.options = client, options

    def pods(self) -> list[FoundContainer]:
        """All of ours, those that are leaving too."""
        labelled = {"label": f"{_OURS}={self.options.installation}"}
        listed = self._client.containers.list(all=True, filters=labelled, ignore_removed=True)
        return [_found(each) for each in listed]

    def digest(self, wanted: PodsRequest) -> str:
        """Of all that a container is made of but its number and address: another one is another container."""
        said = wanted.model_copy(update={"replicas": 1}).model_dump_json() + repr(self.options)
        return hashlib.sha256(said.encode()).hexdigest()[:12]

    def _image(self, wanted: PodsRequest) -> str:
        return (self.options.recording_image if wanted.request_log else "") or self.options.image

    def memory_mebi(self, wanted: PodsRequest) -> int:
        return self.options.memory_mebi or wanted.memory_mebi()

    def start(self, wanted: PodsRequest, number: int, address: str) -> None:
        """Make the pod with this number and start it. Raises `NotMadeError`."""
        try:
            self._make(wanted, number, address).start()
        except ImageNotFound as error:
            raise NotMadeError(
                f"there is no image {self._image(wanted)} here",
                "build it: docker compose --profile recording build, or name another in SLIPWAY_POD_IMAGE "
                "or, for specs with `request_log`, SLIPWAY_RECORDING_POD_IMAGE",
                is_final=True,
            ) from error
        except APIError as error:
            said = str(error.explanation or error)
            # Somebody was given the address meanwhile: the next look takes another one.
            is_final = not any(sign in said for sign in ("already in use", "conflict", "in progress"))
            raise NotMadeError(
                f"Docker cannot start the pod: {said}", "do what it says", is_final=is_final
            ) from error

    def start_again(self, pod: FoundContainer) -> None:
        try:
            self._client.api.start(pod.id)
        except NotFound:
            pass
        except APIError as error:
            said = str(error.explanation or error)
            raise NotMadeError(
                f"Docker cannot start the pod: {said}", "do what it says", is_final=False
            ) from error

    def end(self, pod: FoundContainer) -> None:
        """Let it finish what it has, then remove it."""
        try:
            self._client.api.stop(pod.id, timeout=DRAIN_SECONDS + 5)
            self._client.api.remove_container(pod.id, v=True, force=True)
        except NotFound:
            pass

    def last_words(self, pod: FoundContainer) -> tuple[str, ...]:
        try:
            said: bytes = self._client.api.logs(pod.id, tail=_SAID_LINES)
        except APIError:
            return ()
        return tuple(line[:500] for line in said.decode(errors="replace").splitlines() if line)

    def deaths(self) -> Iterator[dict[str, Any]]:
        """Docker's events of our containers, as long as the connection lasts."""
        chosen = {"label": f"{_OURS}={self.options.installation}", "event": ["oom", "die"]}
        yield from self._client.events(decode=True, filters=chosen)

    def free_addresses(self, taken: Iterable[str], count: int, *, after: str = "") -> tuple[str, ...]:
        """Of the pods' network, beyond what Docker gives out by itself; those after `after` first.

        An address then means one deployment for a long time: a route that still names a retired pod does not
        reach its successor by mistake. Raises `Permanent` where there is no room.
        """
        subnet, dynamic, gateway = self._network()
        used = {*taken, gateway}
        possible = [str(each) for each in subnet.hosts() if each not in dynamic]
        turn = possible.index(after) + 1 if after in possible else 0
        free = [each for each in [*possible[turn:], *possible[:turn]] if each not in used]
        if len(free) < count:
            raise Permanent(
                f"the network {self.options.network} ({subnet}) has no {count} free addresses",
                remedy="give it a larger subnet: SLIPWAY_PODS_SUBNET",
            )
        return tuple(free[:count])

    def can_give(self, addresses: Iterable[str]) -> bool:
        """Whether all of them are of the pods' network, beyond what Docker gives out by itself. True also
        where there is no such network: that is said where a pod is started.
        """
        try:
            subnet, dynamic, _ = self._network()
        except NotFound:
            return True
        asked = [ipaddress.ip_address(each) for each in addresses]
        return all(each in subnet and each not in dynamic for each in asked)

    def _network(self) -> tuple[IPNetwork, IPNetwork, str]:
        """The pods': all of it, the part that Docker gives out, and its gateway."""
        config = self._client.networks.get(self.options.network).attrs["IPAM"]["Config"][0]
        subnet = ipaddress.ip_network(config["Subnet"])
        dynamic = ipaddress.ip_network(config.get("IPRange") or f"{subnet.network_address}/32")
        return subnet, dynamic, config.get("Gateway", "")

    def _make(self, wanted: PodsRequest, number: int, address: str) -> Container:
        options, ref = self.options, wanted.ref
        memory = self.memory_mebi(wanted) * 2**20
        labels = {_OURS: options.installation, _WHAT: self.digest(wanted), _NUMBER: str(number)}
        labels |= {"slipway.service": ref.service, "slipway.slot": ref.slot, "slipway.bundle": ref.bundle_id}
        plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in ref.service)[
            :40
        ]
        return self._client.containers.create(
            self._image(wanted),
            _arguments(wanted, options),
            name=f"{options.installation}-pod-{plain}-{ref.slot}-{self.digest(wanted)}-{number}",
            environment=_environment(wanted, options),
            labels=labels,
            network=options.network,
            networking_config={options.network: EndpointConfig("1.44", ipv4_address=address)},
            mounts=_mounts(wanted, options),
            tmpfs={"/tmp": f"size={_SCRATCH_BYTES},mode=1777,nosuid,nodev"},  # noqa: S108 - its own
            user=_USER,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            mem_limit=memory,
            memswap_limit=memory,
            nano_cpus=min(wanted.threads + 1, os.cpu_count() or 1) * 10**9,
            pids_limit=_PIDS,
            device_requests=_devices(options),
            init=True,
            restart_policy={"Name": "unless-stopped"},
            log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
        )


def client() -> docker.DockerClient:
    """Of DOCKER_HOST, else of the usual socket. Raises `Retryable` where nobody answers."""
    try:
        return docker.from_env(timeout=60)
    except docker.errors.DockerException as error:
        raise Retryable(
            f"Docker does not answer: {error}", remedy="start dockerd, mount its socket"
        ) from error


def _arguments(wanted: PodsRequest, options: DockerOptions) -> list[str]:
    recording = ["--request-log", "/requests"] if wanted.request_log and options.requests else []
    return [
        *("--bundle", _bundle(wanted, options), "--host", "0.0.0.0", "--port", str(POD_PORT)),
        *("--slot", wanted.ref.slot.value, "--drain-seconds", str(DRAIN_SECONDS), "--answer-warm-rows"),
        *recording,
    ]


def _devices(options: DockerOptions) -> list[DeviceRequest]:
    if not options.gpus:
        return []
    count = -1 if options.gpus == "all" else int(options.gpus)
    return [DeviceRequest(driver="nvidia", count=count, capabilities=[["gpu"]])]


def _environment(wanted: PodsRequest, options: DockerOptions) -> dict[str, str]:
    found = {"SLIPWAY_FAULTS": wanted.faults} if wanted.faults else {}
    found |= {"SLIPWAY_DEVICE": "cuda"} if options.gpus else {}
    found |= {attestation.VARIABLE: wanted.trusted} if wanted.trusted else {}
    return {**found, "SLIPWAY_REDIS": options.redis} if wanted.shared_cache and options.redis else found


def _mounts(wanted: PodsRequest, options: DockerOptions) -> list[Mount]:
    """Of a folder its own bundle; of a volume all of it, for engines before 26 mount no part of one."""
    if options.bundles.startswith("/"):
        source = f"{options.bundles}/{wanted.ref.bundle_id}"
        found = [Mount(f"/bundles/{wanted.ref.bundle_id}", source, "bind", read_only=True)]
    else:
        found = [_whole("/bundles", options.bundles, read_only=True)]
    if wanted.request_log and options.requests:
        found.append(_whole("/requests", options.requests, read_only=False))
    return found


def _whole(target: str, source: str, *, read_only: bool) -> Mount:
    if source.startswith("/"):
        return Mount(target, source, "bind", read_only)
    # Nothing is copied into it: an empty one is one that somebody forgot to fill.
    return Mount(target, source.partition(":")[0], "volume", read_only, no_copy=True)


def _bundle(wanted: PodsRequest, options: DockerOptions) -> str:
    """Where the pod finds it."""
    folder = "" if options.bundles.startswith("/") else options.bundles.partition(":")[2]
    return "/".join(each for each in ("/bundles", folder, wanted.ref.bundle_id) if each)


def _found(container: Container) -> FoundContainer:
    attrs = container.attrs
    state, labels = attrs["State"], attrs["Config"]["Labels"]
    networks = attrs["NetworkSettings"]["Networks"] or {}
    given = [each.get("IPAMConfig") or {} for each in networks.values()]
    return FoundContainer(
        id=attrs["Id"],
        name=attrs["Name"].lstrip("/"),
        what=labels[_WHAT],
        number=int(labels[_NUMBER]),
        address=next((each["IPv4Address"] for each in given if "IPv4Address" in each), ""),
        state=state["Status"],
        restarts=attrs["RestartCount"],
        exit_code=state["ExitCode"],
        was_out_of_memory=state["OOMKilled"],
    )
