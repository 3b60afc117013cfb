"""Releases on the real stack: registry, DAG, pods, Envoy and controller, under traffic, while things break.

The tests tell one story in order; each starts from what the one before left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from demo.clients import DagRun, Platform, Registry
from tests.e2e.client import Users, asking
from tests.e2e.stack import COMMANDS, Stack, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.story, pytest.mark.timeout(900)]

MODEL = "loans"
RELEASE = f"release_{MODEL}"
PATIENCE_SECONDS = 400


@dataclass
class Loans:
    """The model under test on a running stack, and who asks it."""

    stack: Stack

    @property
    def platform(self) -> Platform:
        return self.stack.platform

    @property
    def registry(self) -> Registry:
        return self.stack.registry

    def release(self, version: int) -> DagRun:
        return self.platform.trigger(RELEASE, {"version": str(version)})

    def end_of(self, run: DagRun) -> DagRun:
        return self.stack.wait_for(run, seconds=PATIENCE_SECONDS)

    def wait_for_canary(self, version: int) -> None:
        """Until the version has some of the traffic. It is not yet promoted then."""
        self.wait_until(
            lambda: 0 < self.platform.shares(MODEL).get(version, 0) < 100, f"v{version} in canary"
        )

    def _share(self, version: int) -> float:
        return self.platform.shares(MODEL).get(version, 0)

    def wait_for_status(self, version: int, status: str) -> None:
        self.wait_until(lambda: self.status(version) == status, f"v{version} to be {status}")

    def wait_until(self, condition: Callable[[], bool], what: str, *, every: float = 0.5) -> None:
        wait_until(condition, seconds=PATIENCE_SECONDS, what=what, every=every)

    def status(self, version: int) -> str:
        """Where the version's last release stands."""
        rows = (row for row in self.platform.releases(MODEL) if row["version"] == version)
        return str(next(rows, {"status": "none"})["status"])

    def stands_still(self) -> dict[str, Any] | None:
        """Why the newest release that is under way does not go on, as `./slipway status` says it."""
        (newest, *_) = self.platform.releases(MODEL)
        told = (one for one in self.stack.status()["standing_still"] if one["release_id"] == newest["id"])
        return next(told, None)

    @property
    def champion(self) -> int | None:
        return self.registry.champion(MODEL)

    @property
    def serving(self) -> int | None:
        """The version that gets every request."""
        shares = self.platform.shares(MODEL)
        return next(iter(shares)) if list(shares.values()) == [100] else None

    def tags(self, version: int) -> dict[str, str]:
        return self.registry.tags(MODEL, version)

    def settles_on(self, version: int | None) -> None:
        """One version serves, from one pod, and nothing of the model is on its way or holds up what comes."""

        def settled() -> bool:
            model = self.platform.model(MODEL)
            is_free = model["active"] is None and model["queued"] is None
            # The pods last: asking for them is a command, which takes a second of the stack's processor.
            return is_free and self.serving == version and len(self.stack.pods(MODEL)) == 1

        self.wait_until(settled, f"v{version} alone")
        assert self.champion == version


@pytest.fixture(scope="module")
def loans(stack: Stack, trained: str) -> Loans:
    """Four equal versions in the registry."""
    stack.registry.copy(trained, MODEL, count=4)
    stack.wait_for_dag(RELEASE)
    return Loans(stack)


@pytest.fixture(scope="module")
def users(loans: Loans) -> Iterator[Users]:
    with asking(Users(loans.stack.infer_url(MODEL), loans.stack.rows())) as users:
        yield users


@pytest.mark.every_python
def test_a_first_version_travels_from_the_registry_to_its_users(loans: Loans, users: Users) -> None:
    assert loans.end_of(loans.release(1)).state == "success"
    loans.settles_on(1)
    tags = loans.tags(1)
    assert tags["slipway.status"] == "promoted"
    (serving,) = loans.platform.model(MODEL)["serving"]
    assert tags["slipway.bundle"] == serving["bundle_id"]
    assert tags["slipway.evidence"].startswith(loans.registry.url)
    loans.wait_until(lambda: users.answered > 0, "the first answer")


def test_asked_for_twice_with_a_killed_scheduler_it_rolls_out_once(loans: Loans, users: Users) -> None:
    first, again = loans.release(2), loans.release(2)
    loans.wait_for_canary(2)
    loans.stack.kill("airflow-scheduler")
    assert loans.end_of(first).state == "success"
    loans.end_of(again)
    loans.settles_on(2)
    assert loans.platform.rolled_out(MODEL) == [1, 2]
    assert users.failed == []


def test_a_killed_pod_and_a_killed_envoy_leave_one_version_serving(loans: Loans, users: Users) -> None:
    run = loans.release(3)
    loans.wait_for_canary(3)
    loans.stack.kill(loans.stack.pods(MODEL)[-1])
    loans.stack.kill("envoy")
    ended = loans.end_of(run)
    winner = 3 if ended.state == "success" else 2
    loans.settles_on(winner)
    assert loans.tags(3)["slipway.status"] == ("promoted" if winner == 3 else "rolled_back")
    # Envoy's own absence is a refused connection; what it let through was always answered.
    assert [status for status in users.failed if status != httpx.codes.SERVICE_UNAVAILABLE] == []


def test_without_mlflow_nothing_is_half_promoted_and_the_books_agree(loans: Loans, users: Users) -> None:
    before = loans.serving
    run = loans.release(4)
    loans.wait_for_canary(4)
    with loans.stack.stopped("mlflow"):
        loans.wait_for_status(4, "watching")
        loans.wait_for_status(4, "rolled_back")
        assert loans.serving == before
    assert loans.end_of(run).state == "failed"
    loans.settles_on(before)
    assert loans.tags(4)["slipway.status"] == "rolled_back"


def test_a_rollback_on_request_returns_to_the_version_before(loans: Loans, users: Users) -> None:
    bad = loans.serving
    assert bad is not None
    done = loans.stack.slipway("rollback", MODEL, "--reason", "users complain", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    loans.settles_on(bad - 1)
    assert "users complain" in loans.tags(bad)["slipway.reason"]


def test_a_dag_paused_in_airflow_holds_its_rollout_until_it_is_unpaused(loans: Loans, users: Users) -> None:
    before = loans.serving
    run = loans.platform.trigger(RELEASE, {"version": "4", "reason": "MLflow is back"})
    loans.wait_for_canary(4)
    loans.platform.pause(RELEASE)
    loans.wait_until(lambda: loans.stands_still() is not None, "the rollout to be held", every=COMMANDS)
    told = loans.stands_still()
    assert told is not None
    assert told["kind"] == "dag_paused"
    assert f"./slipway unpause {MODEL}" in told["way_out"]
    held = loans.platform.shares(MODEL)
    assert 0 < held[4] < 100
    # A person asks for another one meanwhile.
    asked = loans.stack.slipway("release", MODEL, "3", "--reason", "again")
    assert f"{RELEASE} is paused in Airflow" in asked.stderr
    assert loans.platform.shares(MODEL) == held
    assert loans.champion == before
    assert loans.stack.slipway("unpause", MODEL).returncode == 0
    assert loans.end_of(run).state == "success"
    assert loans.champion == 4
    loans.wait_until(lambda: loans.serving == 3, "the release that was asked for meanwhile")
    loans.settles_on(3)
