"""What stands behind a port by its name: our own, and what packages bring by entry points.

A package of one file adds a platform without touching ours:

    [project.entry-points."slipway.platforms"]
    nomad = "slipway_nomad:Nomad"

Nothing is imported to know the names: a spec is checked where its platform's libraries need not be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from model_store.errors import Permanent
from model_store.installation import name_here


@dataclass(frozen=True, slots=True)
class Port:
    """One port. `own`: what comes with Slipway, as `module:attribute`; `elsewhere`: how to get what does not.

    What an entry point loads is called with the `Home` and returns the implementation. Of a name that is
    both ours and a package's, or two packages', nothing is loaded: which one it would be is chance.
    """

    group: str
    noun: str
    own: Mapping[str, str]
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    def known(self) -> list[str]:
        """The names there are."""
        return sorted(self._entries())

    def missing(self, name: str) -> str | None:
        """Why there is nothing of that name, in one sentence for a person; None if there is.

        To look through everything that is installed takes a while (300 specs): not for what is ours.
        """
        if name in self.own or name in self._entries():
            return None
        known = [f"`{one}`" for one in self.known()]
        there = f"there {'is' if len(known) == 1 else 'are'} {', '.join(known)}"
        package = f"a package with an entry point of that name in `{self.group}`"
        return f"{there}; `{name}` comes with {self.elsewhere.get(name, package)}"

    def load(self, name: str) -> Any:
        """What makes the implementation. Raises `Permanent` saying what there is, or whose it is."""
        if (why := self.missing(name)) is not None:
            raise Permanent(f"there is no {self.noun} `{name}`: {why}", remedy="install it, or name another")
        first, *others = self._entries()[name]
        if others:
            raise Permanent(
                f"{' and '.join(map(_origin, (first, *others)))} both bring a {self.noun} `{name}`",
                remedy="uninstall one of them, or rename its entry point",
            )
        try:
            return first.load()
        except Exception as error:
            raise Permanent(
                f"the {self.noun} `{name}` of {_origin(first)} cannot be loaded: {error!r}",
                remedy="repair or uninstall that package",
            ) from error

    def _entries(self) -> dict[str, list[EntryPoint]]:
        found = {name: [EntryPoint(name, name_here(value), self.group)] for name, value in self.own.items()}
        for entry in entry_points(group=self.group):
            found.setdefault(entry.name, []).append(entry)
        return found


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "Slipway"


PLATFORMS = Port(
    "slipway.platforms",
    "platform",
    own={
        "local": "serving.platforms.local:LocalPlatform",
        "docker": "serving.platforms.docker.platform:DockerPlatform",
        "kubernetes": "serving.platforms.kubernetes.platform:KubernetesPlatform",
    },
)
GATEWAYS = Port(
    "slipway.gateways", "gateway", own={"envoy": "serving.gateway.router.envoy_file:EnvoyFileRouter"}
)
METRICS_SOURCES = Port(
    "slipway.metrics_sources", "source of metrics", own={"envoy": "serving.metrics.envoy:EnvoyAdmin.of_home"}
)
