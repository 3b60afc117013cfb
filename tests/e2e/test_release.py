"""Releases on the real stack: registry, DAG, pods, Envoy and guard, under traffic, while things break.

The tests tell one story in order; each starts from what the one before left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from benchmarks.release_overhead import register_copies
from demo.data import Parts
from demo.models import MODEL as TRAINED
from demo.traffic import applications
from model_store.registry import Registry
from model_store.types import ModelRef
from serving.rollout.journal import Journal
from serving.rollout.lock import LockState, ReleaseLock
from serving.rollout.plan import Phase, RolloutState
from serving.router.envoy_file import EnvoyFileRouter
from serving.stack.airflow_api import AirflowApi, DagRun, airflow_api
from serving.stack.supervisor import Supervisor
from serving.target.local import LocalTarget
from serving.types import Route
from tests.e2e.stack import Stack, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.story, pytest.mark.timeout(900)]

MODEL = "loans"
RELEASE = f"release_{MODEL}"
RATE_PER_SECOND = 30
PATIENCE_SECONDS = 400


@dataclass
class Loans:
    """The model under test on a running stack, and who asks it."""

    stack: Stack
    api: AirflowApi
    registry: Registry
    journal: Journal
    router: EnvoyFileRouter

    def release(self, version: int) -> DagRun:
        return self.api.trigger(RELEASE, {"version": str(version)})

    def end_of(self, run: DagRun) -> DagRun:
        return self.stack.wait_for(self.api, run, seconds=PATIENCE_SECONDS)

    def wait_for_canary(self, version: int) -> None:
        """Until the version has some of the traffic. It is not yet promoted then."""
        self.wait_until(lambda: self._weight_of(version) > 0, f"v{version} to get traffic")
        assert self.latest.phase is Phase.PROGRESSING

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, seconds=PATIENCE_SECONDS, what=what)

    def _weight_of(self, version: int) -> float:
        route = self.route
        return route.split.candidate if route.candidate and route.candidate.version == version else 0

    @property
    def route(self) -> Route:
        return self.router.read(MODEL)

    @property
    def latest(self) -> RolloutState:
        return self.journal.releases(MODEL)[-1]

    @property
    def champion(self) -> int | None:
        return self.registry.aliases(MODEL).get("champion")

    @property
    def serving(self) -> int | None:
        stable = self.route.stable
        return stable.version if stable and self.route.split.stable == 100 else None

    def tags(self, version: int) -> dict[str, str]:
        return self.registry.describe(ModelRef(MODEL, version)).tags

    def pods(self) -> list[int]:
        return [pods.version for pods in LocalTarget(self.stack.home).deployments(MODEL)]

    def is_free(self) -> bool:
        """Whether nobody holds or awaits the release lock."""
        return ReleaseLock(self.stack.home.journal).read(MODEL) == LockState()


class Users(threading.Thread):
    """Asks at a steady rate. `failed`: answers that were no answers, since the model first answered."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self._url = f"{stack.home.gateway_url}/v2/models/{MODEL}/infer"
        self._rows = applications(Parts.under(stack.home.data / TRAINED).traffic)
        self._ended = threading.Event()
        self.answered, self.failed, self.unreachable = 0, list[int](), 0

    def run(self) -> None:
        with httpx.Client(timeout=10, trust_env=False) as client:
            while not self._ended.wait(1 / RATE_PER_SECOND):
                self._ask(client)

    def _ask(self, client: httpx.Client) -> None:
        row = self._rows[self.answered % len(self._rows)]
        try:
            status = client.post(self._url, content=row.body).status_code
        except httpx.HTTPError:
            self.unreachable += 1
            return
        if status == httpx.codes.OK:
            self.answered += 1
        elif self.answered:
            self.failed.append(status)

    def end(self) -> None:
        self._ended.set()
        self.join()


@pytest.fixture(scope="module")
def loans(stack: Stack, trained: ModelRef) -> Iterator[Loans]:
    """Four equal versions in the registry. Leaves no pod behind."""
    registry = Registry(stack.home.mlflow_url)
    register_copies(registry, trained, MODEL, count=4)
    with airflow_api(stack.home) as api:
        wait_until(lambda: RELEASE in api.dag_ids(), seconds=120, what=f"the DAG {RELEASE}")
        yield Loans(stack, api, registry, Journal(stack.home.journal), EnvoyFileRouter(stack.home))
    target = LocalTarget(stack.home)
    for deployment in target.deployments(MODEL):
        target.retire(deployment)


@pytest.fixture(scope="module")
def users(loans: Loans) -> Iterator[Users]:
    asking = Users(loans.stack)
    asking.start()
    yield asking
    asking.end()


@contextmanager
def stopped(stack: Stack, program: str) -> Iterator[None]:
    """The supervisor does not bring it back while this lasts."""
    name = stack.program(program).full_name
    Supervisor(stack.home).stop(name)
    try:
        yield
    finally:
        Supervisor(stack.home).start(name)
        stack.wait_until_healthy()


@pytest.mark.every_python
def test_a_first_version_travels_from_the_registry_to_its_users(loans: Loans, users: Users) -> None:
    assert loans.end_of(loans.release(1)).state == "success"
    assert (loans.serving, loans.champion) == (1, 1)
    assert loans.pods() == [1]
    tags = loans.tags(1)
    assert tags["slipway.status"] == "promoted"
    assert loans.route.stable is not None
    assert tags["slipway.bundle"] == loans.route.stable.bundle_id
    assert tags["slipway.evidence"].startswith(loans.registry.url)
    assert loans.is_free()
    loans.wait_until(lambda: users.answered > 0, "the first answer")


def test_asked_for_twice_with_a_killed_scheduler_it_rolls_out_once(loans: Loans, users: Users) -> None:
    first, again = loans.release(2), loans.release(2)
    loans.wait_for_canary(2)
    loans.stack.kill("airflow-scheduler")
    assert loans.end_of(first).state == "success"
    loans.end_of(again)
    assert (loans.serving, loans.champion) == (2, 2)
    assert [state.version for state in loans.journal.releases(MODEL)] == [1, 2]
    assert loans.pods() == [2]
    assert loans.is_free()
    assert users.failed == []


def test_a_killed_pod_and_a_killed_envoy_leave_one_version_serving(loans: Loans, users: Users) -> None:
    run = loans.release(3)
    loans.wait_for_canary(3)
    candidate = loans.route.candidate
    assert candidate is not None
    loans.stack.kill(f"pod-{MODEL}-{candidate.slot}-0")
    loans.stack.kill("envoy")
    ended = loans.end_of(run)
    winner = 3 if ended.state == "success" else 2
    assert (loans.serving, loans.champion) == (winner, winner)
    assert loans.pods() == [winner]
    assert loans.tags(3)["slipway.status"] == ("promoted" if winner == 3 else "rolled_back")
    assert loans.is_free()
    # Envoy's own absence is a refused connection; what it let through was always answered.
    assert [status for status in users.failed if status != httpx.codes.SERVICE_UNAVAILABLE] == []


def test_without_mlflow_nothing_is_half_promoted_and_the_books_agree(loans: Loans, users: Users) -> None:
    before = loans.serving
    run = loans.release(4)
    loans.wait_for_canary(4)
    with stopped(loans.stack, "mlflow"):
        loans.wait_until(lambda: loans.latest.phase is Phase.WATCHING, "v4 to pass every step")
        loans.wait_until(lambda: loans.latest.phase is Phase.ROLLED_BACK, "v4 to be taken back")
        assert loans.serving == before
    assert loans.end_of(run).state == "failed"
    assert (loans.serving, loans.champion) == (before, before)
    assert loans.pods() == [before]
    assert loans.tags(4)["slipway.status"] == "rolled_back"
    assert loans.is_free()


def test_a_rollback_on_request_returns_to_the_version_before(loans: Loans, users: Users) -> None:
    bad = loans.serving
    assert bad is not None
    before = bad - 1
    done = loans.stack.slipway("rollback", MODEL, "--reason", "users complain", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (loans.serving, loans.champion) == (before, before)
    assert loans.pods() == [before]
    assert "users complain" in loans.tags(bad)["slipway.reason"]
    assert loans.is_free()


def test_a_dag_paused_in_airflow_holds_its_rollout_until_it_is_unpaused(loans: Loans, users: Users) -> None:
    before = loans.serving
    run = loans.api.trigger(RELEASE, {"version": "4", "reason": "MLflow is back"})
    loans.wait_for_canary(4)
    loans.stack.airflow("dags", "pause", RELEASE, "--yes")
    loans.wait_until(lambda: bool(loans.latest.paused), "the rollout to be held")
    held = loans.route.split
    assert 0 < held.candidate < 100
    still = loans.stack.slipway_json("status")["standing_still"]
    (told,) = [one for one in still if one["release_id"] == loans.latest.release_id]
    assert told["kind"] == "dag_paused"
    assert f"./slipway unpause {MODEL}" in told["way_out"]
    # A person asks for another one meanwhile.
    asked = loans.stack.slipway("release", MODEL, "3", "--reason", "again")
    assert f"{RELEASE} is paused in Airflow" in asked.stderr
    assert loans.route.split == held
    assert (loans.latest.phase, loans.champion) == (Phase.PROGRESSING, before)
    assert loans.stack.slipway("unpause", MODEL).returncode == 0
    assert loans.end_of(run).state == "success"
    assert loans.champion == 4
    loans.wait_until(lambda: loans.serving == 3, "the release that was asked for meanwhile")
    loans.wait_until(loans.is_free, "its settlement")
