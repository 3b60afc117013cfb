"""What one Envoy is sent, and in which order, played by hand."""

from __future__ import annotations

from serving.gateway.delivery.ads.messages import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES
from serving.gateway.delivery.ads.state import Resource, State
from serving.gateway.delivery.ads.stream import DiscoveryRequest, DiscoveryResponse, DiscoveryStream


def resource(type_url: str, name: str, version: str = "1") -> Resource:
    service = name.partition(".")[0]
    return Resource(type_url, name, b"", version, {service: version})


def state(*resources: Resource, revision: int = 1) -> State:
    table = Resource(ROUTES, "models", b"", f"r{revision}", {"m": f"r{revision}"})
    listener = Resource(LISTENERS, "gateway", b"", "1")
    return State.of([*resources, listener, table], {"m": revision})


CLUSTER, ASSIGNMENT = resource(CLUSTERS, "m"), resource(ENDPOINTS, "m")
CANDIDATE = resource(CLUSTERS, "m.candidate")


class Envoy:
    """Asks for clusters, listeners and routes, and then for the endpoints of the clusters that it got."""

    def __init__(self) -> None:
        self.stream, self.refuses = DiscoveryStream(), ("", "")
        self.clusters: frozenset[str] = frozenset()
        self.nonces: dict[str, str] = {}

    def connect(self, state: State, version: str = "") -> list[DiscoveryResponse]:
        for type_url, names in ((CLUSTERS, []), (LISTENERS, []), (ROUTES, ["models"])):
            self.stream.heard(DiscoveryRequest(type_url, frozenset(names), version), state)
        return self.settle(state)

    def settle(self, state: State) -> list[DiscoveryResponse]:
        """Answer until nothing is due."""
        said: list[DiscoveryResponse] = []
        while due := list(self.stream.due(state)):
            for response in due:
                said.append(response)
                self.take(response, state)
        return said

    def take(self, response: DiscoveryResponse, state: State) -> None:
        names = {name.name for name in response.resources}
        wanted = frozenset() if response.type_url != ROUTES else frozenset({"models"})
        if response.type_url == ENDPOINTS:
            wanted = self.clusters
        error = "bad" if self.refuses[0] == response.type_url and self.refuses[1] in names else ""
        self.nonces[response.type_url] = response.nonce
        self.stream.heard(
            DiscoveryRequest(response.type_url, wanted, response.version, response.nonce, error), state
        )
        if response.type_url == CLUSTERS and not error:
            self.clusters = frozenset(names)
            nonce = self.nonces.get(ENDPOINTS, "")
            self.stream.heard(DiscoveryRequest(ENDPOINTS, self.clusters, "", nonce), state)


def types(said: list[DiscoveryResponse]) -> list[str]:
    return [each.type_url for each in said]


def named(response: DiscoveryResponse) -> list[str]:
    return [each.name for each in response.resources]


def test_who_connects_is_told_everything_in_the_order_in_which_it_depends() -> None:
    envoy = Envoy()
    said = envoy.connect(state(CLUSTER, ASSIGNMENT))
    assert types(said) == [CLUSTERS, LISTENERS, ROUTES, ENDPOINTS]
    assert envoy.stream.revisions == {"m": 1}
    assert not envoy.stream.is_waited_for


def test_a_change_of_everything_is_told_clusters_first_and_routes_last() -> None:
    envoy = Envoy()
    envoy.connect(state(CLUSTER, ASSIGNMENT))
    now = state(resource(CLUSTERS, "m", "2"), resource(ENDPOINTS, "m", "2"), revision=2)
    assert types(envoy.settle(now)) == [CLUSTERS, ENDPOINTS, ROUTES]
    assert envoy.stream.revisions == {"m": 2}


def test_a_change_of_weights_touches_endpoints_alone() -> None:
    envoy = Envoy()
    others = [resource(kind, "n") for kind in (CLUSTERS, ENDPOINTS)]
    envoy.connect(state(CLUSTER, ASSIGNMENT, *others))
    (told,) = envoy.settle(state(CLUSTER, resource(ENDPOINTS, "m", "2"), *others))
    assert (told.type_url, named(told)) == (ENDPOINTS, ["m"])


def test_of_a_cluster_that_changed_the_endpoints_are_sent_again() -> None:
    envoy = Envoy()
    envoy.connect(state(CLUSTER, ASSIGNMENT))
    said = envoy.settle(state(resource(CLUSTERS, "m", "2"), ASSIGNMENT))
    assert types(said) == [CLUSTERS, ENDPOINTS]


def test_a_cluster_whose_endpoints_nobody_knows_is_told_that_there_are_none() -> None:
    envoy = Envoy()
    said = envoy.connect(state(CLUSTER, CANDIDATE, ASSIGNMENT))
    assert named(said[-1]) == ["m", "m.candidate"]
    assert said[-1].resources[1].version == "nothing"


def test_endpoints_that_no_cluster_asks_for_are_waited_for_by_nobody() -> None:
    envoy = Envoy()
    envoy.connect(state(CLUSTER, ASSIGNMENT, resource(ENDPOINTS, "m.candidate")))
    assert envoy.stream.revisions == {"m": 1}


def test_a_cluster_goes_only_after_the_routes_that_named_it() -> None:
    envoy = Envoy()
    envoy.connect(state(CLUSTER, CANDIDATE, ASSIGNMENT))
    said = envoy.settle(state(CLUSTER, ASSIGNMENT, revision=2))
    assert types(said) == [ROUTES, CLUSTERS]
    assert named(said[-1]) == ["m"]


def test_a_cluster_stays_while_the_routes_without_it_are_refused() -> None:
    envoy = Envoy()
    envoy.connect(state(CLUSTER, CANDIDATE, ASSIGNMENT))
    envoy.refuses = (ROUTES, "models")
    assert types(envoy.settle(state(CLUSTER, ASSIGNMENT, revision=2))) == [ROUTES]
    assert envoy.stream.refusal == "bad"
    assert envoy.stream.revisions == {"m": 1}


def test_what_was_refused_is_not_sent_again_until_it_is_something_else() -> None:
    envoy = Envoy()
    envoy.refuses = (ROUTES, "models")
    first = state(CLUSTER, ASSIGNMENT)
    assert types(envoy.connect(first)).count(ROUTES) == 1
    assert envoy.settle(first) == []
    assert not envoy.stream.is_waited_for
    envoy.refuses = ("", "")
    assert types(envoy.settle(state(CLUSTER, ASSIGNMENT, revision=2))) == [ROUTES]
    assert (envoy.stream.refusal, envoy.stream.revisions) == ("", {"m": 2})


def test_of_endpoints_that_are_refused_together_the_good_ones_are_taken() -> None:
    envoy = Envoy()
    others = [resource(kind, "n") for kind in (CLUSTERS, ENDPOINTS)]
    envoy.refuses = (ENDPOINTS, "n")
    envoy.connect(state(CLUSTER, ASSIGNMENT, *others))
    assert envoy.stream.types[ENDPOINTS].taken.keys() == {"m"}
    assert envoy.stream.revisions == {"m": 1}
    assert envoy.stream.refusal == "bad"


def test_what_was_said_before_the_last_response_arrived_changes_no_subscription() -> None:
    envoy = Envoy()
    before = state(CLUSTER, ASSIGNMENT)
    envoy.connect(before)
    old = envoy.nonces[ENDPOINTS]
    now = state(CLUSTER, resource(ENDPOINTS, "m", "2"))
    (told,) = envoy.stream.due(now)
    envoy.stream.heard(DiscoveryRequest(ENDPOINTS, frozenset(), "", old), now)
    assert envoy.stream.is_waited_for
    envoy.take(told, now)
    assert not envoy.stream.is_waited_for
    assert envoy.settle(now) == []


def test_two_changes_on_their_way_are_both_taken() -> None:
    envoy = Envoy()
    others = [resource(kind, "n") for kind in (CLUSTERS, ENDPOINTS)]
    envoy.connect(state(CLUSTER, ASSIGNMENT, *others))
    one = state(CLUSTER, resource(ENDPOINTS, "m", "2"), *others, revision=1)
    two = state(CLUSTER, resource(ENDPOINTS, "m", "2"), others[0], resource(ENDPOINTS, "n", "2"))
    sent = [*envoy.stream.due(one), *envoy.stream.due(two)]
    assert [named(each) for each in sent] == [["m"], ["n"]]
    for each in sent:
        envoy.take(each, two)
    assert {each.version for each in envoy.stream.types[ENDPOINTS].taken.values()} == {"2"}


def test_who_connects_again_is_told_everything_again_in_the_same_words() -> None:
    now = state(CLUSTER, ASSIGNMENT)
    said, again = Envoy().connect(now), Envoy().connect(now, version="1")
    assert [(each.type_url, each.version) for each in said] == [
        (each.type_url, each.version) for each in again
    ]


def test_an_envoy_is_ready_once_it_has_routes_or_had_them_before() -> None:
    now = state(CLUSTER, ASSIGNMENT)
    fresh, back = DiscoveryStream(), DiscoveryStream()
    fresh.heard(DiscoveryRequest(CLUSTERS, frozenset()), now)
    back.heard(DiscoveryRequest(CLUSTERS, frozenset(), version="1"), now)
    assert (fresh.is_ready, back.is_ready) == (False, True)
    envoy = Envoy()
    envoy.connect(now)
    assert envoy.stream.is_ready
