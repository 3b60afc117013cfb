"""All that Envoys are to be told, at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from serving.gateway.delivery.ads.messages import CLUSTERS, ENDPOINTS, EXTENSIONS, LISTENERS, ROUTES

# What names something comes after it: nothing is told of clusters, endpoints or listeners that are not there.
ORDER = (CLUSTERS, ENDPOINTS, LISTENERS, EXTENSIONS, ROUTES)
# All of them are sent each time, and what is left out is gone.
WHOLE = (CLUSTERS, LISTENERS)


@dataclass(frozen=True, slots=True)
class Resource:
    """One of Envoy's resources. `version` is of its whole content.

    `digests` are of what it says, by service: the route table says something of each.
    """

    type_url: str
    name: str
    value: bytes
    version: str
    digests: Mapping[str, str] = field(default_factory=dict)
    # Its part of the version of whatever holds it.
    mark: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        digest = sha256(f"{self.type_url}\0{self.name}\0{self.version}".encode()).digest()
        object.__setattr__(self, "mark", int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True, slots=True)
class State:
    """Resources by type and name, and the revision of each service's route that they were made of."""

    resources: Mapping[str, Mapping[str, Resource]] = field(default_factory=dict)
    revisions: Mapping[str, int] = field(default_factory=dict)
    # By service: what an Envoy that follows its route has taken, as (type, name of resource, digest).
    needed: Mapping[str, tuple[tuple[str, str, str], ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, resources: Iterable[Resource], revisions: Mapping[str, int]) -> State:
        by_type: dict[str, dict[str, Resource]] = {type_url: {} for type_url in ORDER}
        for each in resources:
            by_type[each.type_url][each.name] = each
        needed: dict[str, list[tuple[str, str, str]]] = {service: [] for service in revisions}
        for each in (each for found in by_type.values() for each in found.values()):
            # Nobody asks for the endpoints of a cluster that is not there.
            if each.type_url != ENDPOINTS or each.name in by_type[CLUSTERS]:
                for service in each.digests.keys() & needed.keys():
                    needed[service].append((each.type_url, each.name, each.digests[service]))
        return cls(by_type, revisions, {name: tuple(needs) for name, needs in needed.items()})


def version(resources: Iterable[Resource]) -> str:
    """Of resources: the same for the same content, whichever server says it. Cheap, of thousands too."""
    found = 0
    for each in resources:
        found ^= each.mark
    return f"{found:016x}"


def names(resources: Mapping[str, Resource]) -> Iterator[str]:
    """In the order in which they are sent: the same on every server."""
    return iter(sorted(resources))
