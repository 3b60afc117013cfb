"""What one Envoy knows, is owed, and has refused. Pure: no I/O, no clock.

The order is that of envoyproxy/go-control-plane and of Envoy's own "make before break": clusters, endpoints,
listeners, filters, routes; a cluster that is gone is taken away only once the routes without it are
acknowledged. Of a cluster that changed, the endpoints are sent again, for Envoy makes it anew and waits for
them; of one that nobody knows endpoints of, none. What an Envoy refused is not sent again until it is
something else.
Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/api-docs/xds_protocol
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from serving.gateway.delivery.ads.messages import CLUSTERS, ENDPOINTS, ROUTES, encoded
from serving.gateway.delivery.ads.state import ORDER, WHOLE, Resource, State, names, version


@dataclass(frozen=True, slots=True)
class DiscoveryRequest:
    """What Envoy says. `error`: why it refuses what was sent with `nonce`; "" if it does not."""

    type_url: str
    names: frozenset[str]
    version: str = ""
    nonce: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class DiscoveryResponse:
    """What Envoy is told."""

    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...]


@dataclass(slots=True)
class Subscription:
    """One type of resource, by name: what is wanted, was sent, and is `taken` (acknowledged).

    `open` is what was sent and not answered, by nonce; `refused` has Envoy's words; what is in `apart` is to
    be sent alone. Nothing is due while the state is the one `looked` at.
    """

    wanted: frozenset[str] = frozenset()
    sent: dict[str, Resource] = field(default_factory=dict)
    taken: dict[str, Resource] = field(default_factory=dict)
    open: dict[str, tuple[Resource, ...]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    apart: set[str] = field(default_factory=set)
    nonce: str = ""
    looked: State | None = None


class DiscoveryStream:
    """One Envoy's connection. Feed it `heard`, send what is `due`."""

    def __init__(self) -> None:
        self.types: dict[str, Subscription] = {}
        self.had_configuration = False
        # By service, the revision of the route that is taken whole.
        self.revisions: dict[str, int] = {}
        self._count = 0

    def heard(self, request: DiscoveryRequest, state: State) -> None:
        """An Envoy's request: a subscription, an acknowledgement, a refusal, or two of them at once."""
        known = self.types.get(request.type_url)
        if known is None:
            known = self.types[request.type_url] = Subscription()
            self.had_configuration |= bool(request.version)
        elif request.nonce in known.open:
            self._settle(known, request, state)
        if request.nonce == known.nonce or not known.nonce:
            # Else it has not seen yet what was sent since: what it says to that has its names, too.
            self._subscribe(known, request)

    def due(self, state: State) -> Iterator[DiscoveryResponse]:
        """What to send now, in this order."""
        for type_url in ORDER:
            known = self.types.get(type_url)
            if known is None or known.looked is state:
                continue
            known.looked = state
            if type_url in WHOLE:
                if (whole := self._whole(known, type_url, state)) is not None:
                    yield self._send(known, type_url, whole)
                continue
            for part in _parted(known, _changed(known, type_url, state)):
                yield self._send(known, type_url, part)

    @property
    def is_ready(self) -> bool:
        """Whether it may take traffic: it has routes, of this connection or one before."""
        table = self.types.get(ROUTES)
        return self.had_configuration or bool(table and table.taken)

    @property
    def refusal(self) -> str:
        """Why it refuses what it was sent, in its words; "" if it does not."""
        words = (each for known in self.types.values() for each in known.refused.values())
        return "; ".join(dict.fromkeys(words))

    @property
    def is_waited_for(self) -> bool:
        """Whether something that was sent is neither acknowledged nor refused."""
        return not self.types or any(known.open for known in self.types.values())

    def version(self) -> str:
        """Of all that it has taken: two Envoys with the same have the same."""
        taken = (each for known in self.types.values() for each in known.taken.values())
        return version(taken)

    def _subscribe(self, known: Subscription, request: DiscoveryRequest) -> None:
        if request.names != known.wanted:
            known.wanted, known.looked = request.names, None
            if request.type_url not in WHOLE:
                for name in known.sent.keys() - request.names:
                    del known.sent[name]

    def _settle(self, known: Subscription, request: DiscoveryRequest, state: State) -> None:
        sent = known.open.pop(request.nonce)
        if request.error:
            self._refuse(known, request, sent)
            return
        if request.type_url in WHOLE:
            known.taken, known.refused = {}, {}
        for each in sent:
            known.taken[each.name] = each
            known.refused.pop(each.name, None)
        self._take(state, {service for each in sent for service in each.digests})
        if request.type_url == ROUTES and CLUSTERS in self.types:
            self.types[CLUSTERS].looked = None

    def _refuse(self, known: Subscription, request: DiscoveryRequest, sent: tuple[Resource, ...]) -> None:
        known.refused.update(dict.fromkeys((each.name for each in sent), request.error))
        if request.type_url not in WHOLE and len(sent) > 1:
            # One of them is refused, and the others are told again without it.
            known.apart.update(each.name for each in sent)
            known.looked = None
            for each in sent:
                known.sent.pop(each.name, None)

    def _take(self, state: State, services: set[str]) -> None:
        for service in services:
            needed = state.needed.get(service, ())
            if needed and all(self._has(service, *need) for need in needed):
                self.revisions[service] = state.revisions[service]

    def _has(self, service: str, type_url: str, name: str, digest: str) -> bool:
        known = self.types.get(type_url)
        taken = known.taken.get(name) if known else None
        return taken is not None and taken.digests.get(service) == digest

    def _whole(self, known: Subscription, type_url: str, state: State) -> dict[str, Resource] | None:
        wanted = dict(state.resources.get(type_url, {}))
        if type_url == CLUSTERS and self._may_be_routed_to(state):
            wanted = {**known.sent, **wanted}
        is_new = not known.nonce or wanted.keys() != known.sent.keys()
        if is_new or any(known.sent[name].version != each.version for name, each in wanted.items()):
            return wanted
        return None

    def _may_be_routed_to(self, state: State) -> bool:
        """Whether its routes may still name clusters that are gone."""
        table = self.types.get(ROUTES)
        now = state.resources.get(ROUTES, {})
        return table is not None and any(
            name in now and (name not in table.taken or table.taken[name].version != now[name].version)
            for name in table.wanted
        )

    def _send(
        self, known: Subscription, type_url: str, resources: Mapping[str, Resource]
    ) -> DiscoveryResponse:
        if type_url == CLUSTERS:
            self._owe_endpoints(known, resources)
        self._count += 1
        known.nonce = str(self._count)
        known.sent = dict(resources) if type_url in WHOLE else {**known.sent, **resources}
        sent = known.open[known.nonce] = tuple(resources[name] for name in names(resources))
        return DiscoveryResponse(type_url, version(known.sent.values()), known.nonce, sent)

    def _owe_endpoints(self, known: Subscription, clusters: Mapping[str, Resource]) -> None:
        if endpoints := self.types.get(ENDPOINTS):
            for name, each in clusters.items():
                if name not in known.sent or known.sent[name].version != each.version:
                    endpoints.sent.pop(name, None)
                    endpoints.looked = None


def _changed(known: Subscription, type_url: str, state: State) -> dict[str, Resource]:
    there = state.resources.get(type_url, {})
    found = {name: there.get(name) or _nothing(type_url, name) for name in known.wanted}
    return {
        name: each
        for name, each in found.items()
        if each and (name not in known.sent or known.sent[name].version != each.version)
    }


def _parted(known: Subscription, changed: dict[str, Resource]) -> Iterator[dict[str, Resource]]:
    """Together, but for what is to be sent alone."""
    if together := {name: each for name, each in changed.items() if name not in known.apart}:
        yield together
    for name in known.apart & changed.keys():
        yield {name: changed[name]}
    known.apart -= changed.keys()


def _nothing(type_url: str, name: str) -> Resource | None:
    """A cluster whose endpoints nobody knows would wait for them, and all that waits for it."""
    if type_url != ENDPOINTS:
        return None
    content = encoded(ENDPOINTS, {"cluster_name": name})
    return Resource(ENDPOINTS, name, content, "nothing")
