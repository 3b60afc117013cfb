"""Real Envoy, real sockets: what a client sees while candidates misbehave."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from serving.types import ALL_STABLE, RouteSettings, Slot, TrafficSplit
from tests.unit.serving.gateway_process import Gateway
from tests.unit.serving.upstream import Pods, Upstream, deployment

# For a machine that stands still for a while: two attempts in a row that time out set a pod aside.
PATIENT = RouteSettings(timeout_ms=5000, latency_objective_ms=100)
# For pods that hang.
HASTY = RouteSettings(timeout_ms=500, latency_objective_ms=100)


class Service:
    """A service with a stable and a candidate pod at a weight."""

    def __init__(self, gateway: Gateway, name: str, stable: Upstream, candidate: Upstream) -> None:
        self.gateway, self.name = gateway, name
        self.stable = deployment(name, 1, stable)
        self.candidate = deployment(name, 2, candidate, slot=Slot.GREEN)

    def shift(self, weight: float, settings: RouteSettings | None = PATIENT) -> None:
        revision = 0
        if self.name in self.gateway.router.services():
            revision = self.gateway.router.read(self.name).revision
        self.gateway.router.write(
            self.name,
            TrafficSplit(100 - weight, weight),
            stable=self.stable,
            candidate=self.candidate,
            at=revision,
            settings=settings,
        )

    def forget(self) -> None:
        """Envoy watches two files of each service, and a user may watch 128 of all that run here."""
        shutil.rmtree(self.gateway.router.file(self.name).parent)
        self.gateway.router.reconcile()

    def burst(self, count: int, *, threads: int = 8, headers: dict[str, str] | None = None) -> Counter[int]:
        with ThreadPoolExecutor(threads) as pool:
            answers = pool.map(lambda _: self.gateway.infer(self.name, headers).status_code, range(count))
            return Counter(answers)


@pytest.fixture
def service(gateway: Gateway, pods: Pods, request: pytest.FixtureRequest) -> Iterator[Service]:
    name = f"m{abs(hash(request.node.nodeid)) % 10**9}"
    made = Service(gateway, name, pods.start("stable"), pods.start("candidate"))
    made.shift(0)
    gateway.wait_until_served_by(name, "stable")
    yield made
    made.forget()


def candidate_of(pods: Pods) -> Upstream:
    return pods.all[1]


def wait_for_candidate(service: Service, pods: Pods) -> None:
    """Until the candidate's endpoint gets live traffic. One at a time, 1 % may be none for seconds."""
    service.gateway.wait(lambda: service.burst(40) and candidate_of(pods).answered > 0)


@pytest.mark.parametrize("fault", ["error", "overloaded", "reset", "hang", "unparsable", "slow"])
@pytest.mark.parametrize("weight", [50, 90, 99, 100])
def test_a_failing_candidate_costs_users_nothing(
    service: Service, pods: Pods, weight: float, fault: str
) -> None:
    waits = fault in ("hang", "slow")
    service.shift(weight, HASTY if waits else PATIENT)
    wait_for_candidate(service, pods)
    candidate_of(pods).fault = fault
    count = 60 if waits else 300
    assert service.burst(count) == {200: count}
    assert candidate_of(pods).faulty > 0


def test_a_candidate_at_all_traffic_that_dies_costs_users_nothing(service: Service, pods: Pods) -> None:
    service.shift(100)
    wait_for_candidate(service, pods)
    pods.kill(candidate_of(pods))
    assert service.burst(200) == {200: 200}


@pytest.mark.parametrize("callers", [1, 2, 8])
def test_the_only_stable_pod_dying_during_a_canary_costs_users_nothing(
    service: Service, pods: Pods, callers: int
) -> None:
    service.shift(5)
    wait_for_candidate(service, pods)
    pods.kill(pods.all[0])
    assert service.burst(200, threads=callers) == {200: 200}


def test_stable_gets_one_repeat_for_each_failure_of_a_candidate(service: Service, pods: Pods) -> None:
    """Also where stable fails as well: the judge counts on it (docs/verdicts.md, "Repeats")."""
    service.shift(100)
    wait_for_candidate(service, pods)
    stable, candidate = pods.all
    stable.fault = candidate.fault = "error"
    service.burst(50)
    assert stable.faulty == candidate.faulty > 0


def test_requests_marked_non_idempotent_are_never_sent_twice(service: Service, pods: Pods) -> None:
    service.shift(50)
    wait_for_candidate(service, pods)
    candidate_of(pods).fault = "error"
    before = sum(pod.answered for pod in pods.all)
    statuses = service.burst(100, headers={"x-slipway-idempotent": "false"})
    assert statuses[500] == candidate_of(pods).faulty > 0
    assert sum(pod.answered for pod in pods.all) - before == 100


def test_a_service_whose_spec_says_non_idempotent_is_never_retried(service: Service, pods: Pods) -> None:
    service.shift(50, RouteSettings(timeout_ms=5000, idempotent=False))
    wait_for_candidate(service, pods)
    candidate_of(pods).fault = "error"
    service.gateway.wait(lambda: service.gateway.infer(service.name).status_code == 500)
    before = sum(pod.answered for pod in pods.all)
    service.burst(50)
    assert sum(pod.answered for pod in pods.all) - before == 50


def test_a_body_of_some_megabytes_is_sent_again_in_full(service: Service, pods: Pods) -> None:
    service.shift(100)
    wait_for_candidate(service, pods)
    candidate_of(pods).fault = "error"
    answer = service.gateway.infer(service.name, body=b"x" * 5_000_000)
    assert (answer.status_code, answer.headers["x-slipway-arm"]) == (200, "stable")


@pytest.mark.parametrize("fault", ["ok", "error"])
@pytest.mark.parametrize("weight", [1, 10, 50])
def test_the_candidate_gets_its_share_also_when_it_fails(
    service: Service, pods: Pods, weight: float, fault: str
) -> None:
    service.shift(weight)
    wait_for_candidate(service, pods)
    candidate_of(pods).fault = fault
    before = candidate_of(pods).answered
    service.burst(1000, threads=4)
    five_sigma = 5 * (1000 * weight / 100 * (1 - weight / 100)) ** 0.5
    assert candidate_of(pods).answered - before == pytest.approx(10 * weight, abs=five_sigma)


def test_a_candidate_at_weight_zero_gets_only_requests_that_ask_for_it(service: Service, pods: Pods) -> None:
    service.gateway.wait_until_served_by(service.name, "candidate", service.gateway.preview(service.name))
    before = candidate_of(pods).answered
    service.burst(50)
    assert candidate_of(pods).answered == before


def test_asking_for_a_candidate_that_is_not_there_says_so(gateway: Gateway, pods: Pods) -> None:
    router = gateway.router
    stable = deployment("lonely", 1, pods.start("stable"))
    router.write("lonely", ALL_STABLE, stable=stable, candidate=None, at=0)
    gateway.wait_until_served_by("lonely", "stable")
    answer = gateway.infer("lonely", {"x-slipway-arm": "candidate"})
    assert (answer.status_code, answer.json()) == (404, {"error": "lonely has no candidate now"})


def test_an_unknown_model_is_a_404_in_the_protocols_error_shape(service: Service) -> None:
    answer = service.gateway.infer("nobody")
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("unknown model; this gateway serves: ")


def test_a_model_whose_name_continues_another_is_not_taken_for_it(service: Service) -> None:
    assert service.gateway.infer(service.name + "2").status_code == 404


def test_the_callers_request_id_is_kept_and_one_is_made_if_missing(service: Service) -> None:
    assert service.gateway.infer(service.name, {"x-request-id": "abc"}).headers["x-request-id"] == "abc"
    assert service.gateway.infer(service.name).headers["x-request-id"]


def test_a_promoted_candidate_becomes_stable_without_a_failed_request(service: Service, pods: Pods) -> None:
    service.shift(100)
    wait_for_candidate(service, pods)
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(service.burst, 400)
        router = service.gateway.router
        at = router.read(service.name).revision
        router.write(service.name, ALL_STABLE, stable=service.candidate, candidate=None, at=at)
        assert load.result() == {200: 400}
    service.gateway.wait_until_served_by(service.name, "candidate")


def test_everything_listens_on_loopback_only(gateway: Gateway) -> None:
    text = (gateway.home.envoy / "bootstrap.json").read_text()
    assert text.count('"address": "127.0.0.1"') == 2
    assert "0.0.0.0" not in text


def test_envoy_accepts_its_configuration_without_a_warning(gateway: Gateway) -> None:
    log = Path(gateway.home.logs / "envoy.log").read_text()
    assert "deprecated" not in log.lower()
    assert "rejected" not in log


@pytest.mark.parametrize("arm", ["stable", "candidate"])
def test_pods_that_move_during_a_canary_are_followed_without_a_failed_request(
    service: Service, pods: Pods, arm: str
) -> None:
    service.shift(50)
    wait_for_candidate(service, pods)
    left = pods.all[0 if arm == "stable" else 1]
    at, moved = pods.start(f"{arm} elsewhere"), getattr(service, arm)
    with ThreadPoolExecutor(1) as beside:
        answers = beside.submit(service.burst, 400)
        service.gateway.router.move(replace(moved, endpoints=deployment(service.name, 9, at).endpoints))
        assert answers.result() == {200: 400}
    service.gateway.wait(lambda: service.gateway.infer(service.name) and at.answered > 0)
    asked = left.answered
    assert service.burst(100) == {200: 100}
    assert left.answered == asked
    route = service.gateway.router.read(service.name)
    assert (route.split, route.revision) == (TrafficSplit(50, 50), 2)


@pytest.mark.parametrize("fault", ["ok", "error"])
def test_a_pod_that_moves_costs_no_counter_of_what_stays(service: Service, pods: Pods, fault: str) -> None:
    """What a verdict counts: live traffic, and repeats on stable, which a failing candidate makes many of."""
    stays, moves = pods.all[0], pods.start("stable beside")
    service.stable = deployment(service.name, 1, stays, moves)
    service.shift(50)
    wait_for_candidate(service, pods)
    candidate_of(pods).fault = fault
    assert service.burst(60) == {200: 60}
    before = answered(service, stays)
    with ThreadPoolExecutor(1) as beside:
        answers = beside.submit(service.burst, 200)
        at = pods.start("stable elsewhere")
        service.gateway.router.move(replace(service.stable, endpoints=(stays.endpoint, at.endpoint)))
        assert answers.result() == {200: 200}
    service.gateway.wait(lambda: service.gateway.infer(service.name) and at.answered > 0)
    after = answered(service, stays)
    assert before[service.name] > 0
    assert before[f"{service.name}.stable"] > 0 or fault == "ok"
    assert all(after[cluster] >= before[cluster] for cluster in before)


def answered(service: Service, pod: Upstream) -> dict[str, int]:
    """What the pod has answered, by the cluster that it was asked through."""
    found = httpx.get(f"{service.gateway.home.envoy_stats_url}/clusters?format=json").json()
    return {
        cluster["name"]: int({stat["name"]: stat.get("value", 0) for stat in host["stats"]}["rq_success"])
        for cluster in found["cluster_statuses"]
        if cluster["name"] in (service.name, f"{service.name}.stable")
        for host in cluster.get("host_statuses", ())
        if host["address"]["socket_address"]["port_value"] == pod.port
    }
